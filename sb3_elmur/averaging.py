"""Running averages of weights."""

import torch as th
from torch import nn


@th.no_grad()
def follow(average: nn.Module, present: nn.Module, averaging: float, n_averaged: int) -> None:
    """
    Take 1 / (1 + ``averaging`` n) of the present weights after n updates (Shamir & Zhang 2013, arXiv 1212.1824).

    :param average: Averaged weights, which are moved; buffers become the present ones.
    :param present: Of the same structure, left as it is.
    :param averaging: Share in (0, 1] of the updates so far that the average reaches back over.
    :param n_averaged: Updates before this one (n).
    """
    share = 1 / (1 + averaging * n_averaged)
    for old, new in zip(average.parameters(), present.parameters(), strict=True):
        old.lerp_(new, share)
    for kept, buffer in zip(average.buffers(), present.buffers(), strict=True):
        kept.copy_(buffer)

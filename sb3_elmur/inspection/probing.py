"""Linear probes: what can be read from vectors by a linear map, judged on examples that it was not fitted to."""

from typing import NamedTuple

import numpy as np
import torch as th
from torch import Tensor

MOST_CLASSES = 10  # a label with more values is cut at its median
RIDGE = 0.1  # of the mean square of the examples


class Label(NamedTuple):
    """
    What a probe is to decode.

    :param name: What the user calls it.
    :param classes: Names of its C classes.
    :param of: The class of each example, (n,) int64.
    """

    name: str
    classes: tuple[str, ...]
    of: Tensor

    @property
    def chance(self) -> float:
        """Accuracy of always guessing the most frequent class."""
        return self.of.bincount().max().item() / len(self.of)


def make_label(name: str, values: np.ndarray) -> Label:
    """
    A label from values.

    :param name: What the user calls it.
    :param values: Of each example, (n,). More than ten different ones are cut into two classes at their median.
    :raises ValueError: If all values are the same.
    """
    different, classes = np.unique(values, return_inverse=True)
    names = tuple(f"{value:g}" for value in different.astype(float))
    if len(different) > MOST_CLASSES:
        cut = min(np.median(values), different[-2])  # which leaves both classes an example
        classes, names = (values > cut).astype(np.int64), (f"at most {cut:.3g}", f"above {cut:.3g}")
    if len(np.unique(classes)) < 2:
        raise ValueError(f"`label` must differ between episodes. {name!r} is {names[0]} in all {len(values)} of them.")
    return Label(name, names, th.as_tensor(classes))


def probe(contents: Tensor, classes: Tensor, n_classes: int) -> Tensor:
    """
    Decode a label from vectors, each half of the examples by ridge regression on the other half.

    :param contents: P vectors of n examples, (n, P, D).
    :param classes: The class of each example, (n,) int64.
    :param n_classes: C.
    :return: The decoded class of each example by each vector, (n, P) int64.
    """
    x = contents.double().transpose(0, 1)  # (P, n, D)
    target = th.nn.functional.one_hot(classes, n_classes).double()
    half = th.zeros_like(classes, dtype=th.bool)
    half[classes.argsort(stable=True)[1::2]] = True  # both halves have as many of each class
    decoded = th.zeros(contents.shape[:2], dtype=th.int64, device=contents.device)
    for fitted in (half, ~half):
        mean, middle = x[:, fitted].mean(1, keepdim=True), target[fitted].mean(0)
        known = x[:, fitted] - mean
        gram = known @ known.mT
        ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1) + 1e-12
        identity = th.eye(gram.shape[1], dtype=x.dtype, device=x.device)
        weights = th.linalg.solve(gram + ridge[:, None, None] * identity, target[fitted] - middle)
        scores = (x[:, ~fitted] - mean) @ known.mT @ weights + middle  # (P, n / 2, C)
        decoded[~fitted] = scores.argmax(dim=2).T
    return decoded

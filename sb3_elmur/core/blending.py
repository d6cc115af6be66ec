"""
Blending strategies: how much of a written slot its new candidate replaces.

Each maps (old, candidate) to a weight in [0, 1].
"""

from typing import Any

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.core.config import ElmurConfig


class FixedBlend(nn.Module):
    """The paper's constant weight lambda, ``lru_blend``."""

    from_blank = False  # whether a candidate is formed from the slot's initial vector instead of its content

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.weight = config.lru_blend

    def forward(self, old: Tensor, candidate: Tensor) -> Tensor:
        """Weights (B, 1) for old and new content (B, D)."""
        return old.new_full((old.shape[0], 1), self.weight)


class LearnedBlend(nn.Module):
    """One trained weight, which begins at ``lru_blend``."""

    from_blank = False

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.logit = nn.Parameter(th.tensor(config.lru_blend).logit(eps=1e-3))

    def forward(self, old: Tensor, candidate: Tensor) -> Tensor:
        """Weights (B, 1) for old and new content (B, D)."""
        return self.logit.sigmoid().expand(old.shape[0], 1)


class _Step(th.autograd.Function):
    """1 where x > 0, else 0; backward the slope of the fast sigmoid, which dies out slowly (Zenke & Ganguli 2018)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] / (2 * (1 + x.abs()).square())


class GatedBlend(nn.Module):
    """
    A content gate, open or closed: the slot is replaced by its candidate, or kept bit for bit.

    A weight in between would leak: whatever is kept for ever must be kept exactly. The candidate is formed from the slot's
    initial vector instead of its content, as when an empty slot is filled, so that all writes to a slot are alike. A network
    with a hidden layer looks at both, since "something new" is no linear function of contents of either sign.
    """

    from_blank = True

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * config.d_model, config.d_model)
        self.logit = nn.Linear(config.d_model, 1)
        nn.init.constant_(self.logit.bias, config.gate_bias)

    def forward(self, old: Tensor, candidate: Tensor) -> Tensor:
        """Weights (B, 1) for old and new content (B, D)."""
        return _Step.apply(self.logit(F.silu(self.hidden(th.cat((candidate, old), dim=-1)))))


class GatedRecurrentBlend(GatedBlend):
    """
    The same gate over a candidate that is formed from the slot's content, as in a gated recurrent unit.

    One write can then combine what is held with what is new. Where the gate is closed, the slot is kept bit for bit, too.
    """

    from_blank = False


BLENDS = {"fixed": FixedBlend, "learned": LearnedBlend, "gated": GatedBlend, "gated_recurrent": GatedRecurrentBlend}


def make_blend(config: ElmurConfig) -> nn.Module:
    """The strategy that ``config.blend`` names."""
    return BLENDS[config.blend](config)

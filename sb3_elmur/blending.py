"""How new and old content of the slot that is written are combined: the weight of the new content."""

import math

import torch as th
from torch import Tensor, nn

from sb3_elmur.config import ElmurConfig

GATE_MARGIN = 0.1
GATE_BIAS = -1.5


class FixedBlend(nn.Module):
    """The paper's constant weight lambda (``lru_blend``)."""

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.weight = config.lru_blend

    def forward(self, old: Tensor, candidate: Tensor) -> Tensor:
        return old.new_full((len(old), 1, 1), self.weight)


class LearnedBlend(nn.Module):
    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.logit = nn.Parameter(th.tensor(config.lru_blend).logit(eps=1e-3))

    def forward(self, old: Tensor, candidate: Tensor) -> Tensor:
        return self.logit.sigmoid().expand(len(old), 1, 1)


class _Clip(th.autograd.Function):
    """Clip to [0, 1] with the gradient of the identity."""

    @staticmethod
    def forward(ctx, x):
        return x.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx, g):
        return g


class _Cost(th.autograd.Function):
    @staticmethod
    def forward(ctx, z, cost, margin):
        ctx.cost, ctx.margin = cost, margin
        ctx.save_for_backward(z)
        return z.view_as(z)

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        return grad + ctx.cost / grad.numel() * (z > -ctx.margin), None, None


class GatedBlend(nn.Module):
    bias = GATE_BIAS
    straight = True
    cost = 0.0
    margin = 1.0
    hard = True
    record = None
    scale = 0.25
    softback = True

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * config.d_model, 1)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.gate.weight, std=0.5 / math.sqrt(self.gate.in_features))
        nn.init.constant_(self.gate.bias, self.bias)

    def forward(self, old: Tensor, candidate: Tensor) -> Tensor:
        z = self.gate(th.cat((candidate, old), dim=-1) * self.scale)
        if self.cost:
            z = _Cost.apply(z, self.cost, self.margin)
        soft = z.sigmoid()
        self.soft = soft
        if self.hard:
            g = (z > 0).float() + soft - soft.detach()
        else:
            g = (1 + 2 * GATE_MARGIN) * soft - GATE_MARGIN
            g = _Clip.apply(g) if self.straight else g.clamp(0.0, 1.0)
        if self.record is not None:
            GatedBlend.record.append(g.detach().flatten())
        return g


def make_blend(config: ElmurConfig) -> nn.Module:
    """The strategy that ``config.blend`` names."""
    return {"fixed": FixedBlend, "learned": LearnedBlend, "gated": GatedBlend}[config.blend](config)

"""
Feed-forward networks of the ELMUR layer: dense SwiGLU, dense GELU, and a mixture of SwiGLU experts.

All map (..., D) to (..., D) and share one signature; only the mixture uses the router arguments.
"""

from typing import Any

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.config import ElmurConfig


class RouterLoad:
    """
    Collects the choices of all routers in one pass, for the load-balancing loss (DeepSeekMoE, arXiv 2401.06066, eq. 12-14).

    A pass over several segments calls every router several times; its statistics are pooled over all of them.
    """

    def __init__(self) -> None:
        self._totals: dict[MixtureOfExperts, tuple[Tensor, Tensor, Tensor]] = {}

    def add(self, router: "MixtureOfExperts", probabilities: Tensor, chosen: Tensor, real: Tensor | None) -> None:
        """
        :param router: The network that routed.
        :param probabilities: Router probabilities, (..., E).
        :param chosen: 1 where an expert was chosen, else 0, (..., E).
        :param real: (...), false for padding; ``None`` means that all tokens are real.
        """
        weight = th.ones_like(probabilities[..., :1]) if real is None else real[..., None].to(probabilities.dtype)
        added, chosen_added, tokens = (
            (x * weight).flatten(0, -2).sum(0) for x in (probabilities, chosen, th.ones_like(weight))
        )
        before = self._totals.get(router, (0.0, 0.0, 0.0))
        self._totals[router] = (before[0] + added, before[1] + chosen_added, before[2] + tokens)

    def loss(self) -> Tensor:
        """
        ``E / k * sum_e f_e P_e``, averaged over the routers: f_e is the fraction of choices that went to expert e, P_e its
        mean probability.
        """
        losses = []
        for router, (probabilities, chosen, tokens) in self._totals.items():
            share = chosen / (tokens * router.n_chosen)
            losses.append(router.n_routed / router.n_chosen * (share * probabilities / tokens).sum())
        return th.stack(losses).mean()


class _AttachGradient(th.autograd.Function):
    """Identity on ``x`` whose backward pass also adds the gradient of ``loss``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        return grad_outputs[0], grad_outputs[0].new_ones(())


def attach_gradient(x: Tensor, loss: Tensor) -> Tensor:
    """
    Return ``x`` unchanged, and let any backward pass through it minimise ``loss`` too.

    So an auxiliary loss reaches the gradient of a trainer that knows nothing of it. Its gradient is not scaled with the
    trainer's loss.

    :param x: Any tensor on the way to the trainer's loss.
    :param loss: Scalar.
    """
    return _AttachGradient.apply(x, loss)


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))`` without biases; gate and up are one matrix product."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor, load: RouterLoad | None = None, real: Tensor | None = None) -> Tensor:
        """Map (..., D) to (..., D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class GELU(nn.Module):
    """Two linear layers with biases and the exact (erf) GELU between them."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor, load: RouterLoad | None = None, real: Tensor | None = None) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.down(F.gelu(self.up(x)))


class MixtureOfExperts(nn.Module):
    """
    S shared experts, always on, and E routed ones of which every token takes the k most probable (arXiv 2401.06066).

    A weighted sum of SwiGLU experts is one wide SwiGLU whose hidden units are scaled by their expert's gate. So all experts
    are two matrix products, with no loop: hidden units are ordered shared experts first, then routed ones.

    :param config: ``k = max(1, top_k - n_shared_experts)``; with gate ``"softmax"`` an expert's weight is its probability,
        so that the router learns even for k = 1, with ``"renormalised"`` the k weights sum to 1.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        d_ff = config.d_ff or 2 * config.d_model
        self.n_routed = config.n_routed_experts
        self.n_chosen = max(1, config.top_k - config.n_shared_experts)
        self.renormalise = config.router_gate == "renormalised"
        self.routed_d_ff = config.routed_d_ff or d_ff
        self.shared_width = config.n_shared_experts * (config.shared_d_ff or d_ff)
        width = self.shared_width + self.n_routed * self.routed_d_ff
        self.router = nn.Linear(config.d_model, self.n_routed, bias=False)
        self.gate_up = nn.Linear(config.d_model, 2 * width, bias=False)
        self.down = nn.Linear(width, config.d_model, bias=False)

    def forward(self, x: Tensor, load: RouterLoad | None = None, real: Tensor | None = None) -> Tensor:
        """
        Map (..., D) to (..., D).

        :param x: Tokens.
        :param load: Where to record this router's choices.
        :param real: (...), false for tokens that are padding and do not count in ``load``.
        """
        probabilities = self.router(x).softmax(dim=-1)
        top, experts = probabilities.topk(self.n_chosen, dim=-1)
        if load is not None:
            load.add(self, probabilities, th.zeros_like(probabilities).scatter(-1, experts, 1.0), real)
        if self.renormalise:
            top = top / top.sum(dim=-1, keepdim=True)
        weights = th.zeros_like(probabilities).scatter(-1, experts, top)  # (..., E)
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        hidden = F.silu(gate) * up
        shared, routed = hidden.split((self.shared_width, self.n_routed * self.routed_d_ff), dim=-1)
        routed = (routed.unflatten(-1, (self.n_routed, -1)) * weights[..., None]).flatten(-2)
        return self.down(th.cat((shared, routed), dim=-1))


def make_feedforward(config: ElmurConfig) -> nn.Module:
    """The feed-forward network that ``config.ffn`` names."""
    if config.ffn == "moe":
        return MixtureOfExperts(config)
    dense = {"swiglu": SwiGLU, "gelu": GELU}[config.ffn]
    return dense(config.d_model, config.d_ff or 2 * config.d_model)

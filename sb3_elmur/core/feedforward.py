"""
Feed-forward networks of the ELMUR layer: dense SwiGLU, dense GELU, and a mixture of SwiGLU experts.

All map (..., D) to (..., D) and share one signature; only the mixture uses the router arguments.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.core.config import ElmurConfig

Pool = Callable[[Tensor], Tensor]  # from a process's statistics to those of all


class RouterLoad:
    """
    Collects the choices of all routers in one pass, for the load-balancing loss (DeepSeekMoE, arXiv 2401.06066, eq. 12-14).

    A pass over several segments calls every router several times; its statistics are pooled over all of them.

    :param routers: The mixtures of experts, all with as many experts.
    """

    def __init__(self, routers: Iterable["MixtureOfExperts"]) -> None:
        self._totals = {router: router.router.weight.new_zeros(2 * router.n_routed + 1) for router in routers}

    def add(self, router: "MixtureOfExperts", probabilities: Tensor, chosen: Tensor, real: Tensor | None) -> None:
        """
        Count the choices of one call.

        :param router: The network that routed.
        :param probabilities: Router probabilities, (..., E).
        :param chosen: 1 where an expert was chosen, else 0, (..., E).
        :param real: (...), false for padding; ``None`` means that all tokens are real.
        """
        weight = th.ones_like(probabilities[..., :1]) if real is None else real[..., None].to(probabilities.dtype)
        counted = th.cat((probabilities * weight, chosen * weight, weight), dim=-1)
        self._totals[router] = self._totals[router] + counted.flatten(0, -2).sum(0)

    def loss(self, pool: Pool | None = None) -> Tensor:
        """
        ``E / k * sum_e f_e P_e``, averaged over the routers.

        :param pool: From the statistics of this process to those of all that train together, (routers, 2 E + 1) each.
        :return: Scalar; f_e is the fraction of choices that went to expert e, P_e its mean probability.
        """
        router = next(iter(self._totals))
        totals = th.stack(list(self._totals.values()))  # (routers, 2 E + 1)
        pooled = totals if pool is None else pool(totals)
        probabilities, chosen, tokens = pooled[pooled[:, -1] > 0].split((router.n_routed, router.n_routed, 1), dim=1)
        share = chosen / (tokens * router.n_chosen)
        return router.n_routed / router.n_chosen * (share * probabilities / tokens).sum(1).mean()


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
    :return: ``x``.
    """
    return _AttachGradient.apply(x, loss)


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))`` without biases."""

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

    A sum of SwiGLU experts is one wide SwiGLU, so the shared ones are computed as one. The weights of all experts are
    stacked, shared ones first: ``gate_up`` holds the gates of all, then the ups; nothing loops over experts.

    :param config: ``k = max(1, top_k - n_shared_experts)``; with gate ``"softmax"`` an expert's weight is its probability,
        so that the router learns even for k = 1, with ``"renormalised"`` the k weights sum to 1.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        d_ff = config.d_ff or 2 * config.d_model
        self.n_routed = config.n_routed_experts
        self.n_chosen = max(1, config.top_k - config.n_shared_experts)
        self.renormalise = config.router_gate == "renormalised"
        self.widths = (config.n_shared_experts * (config.shared_d_ff or d_ff), self.n_routed * (config.routed_d_ff or d_ff))
        self.router = nn.Linear(config.d_model, self.n_routed, bias=False)
        self.gate_up = nn.Linear(config.d_model, 2 * sum(self.widths), bias=False)
        self.down = nn.Linear(sum(self.widths), config.d_model, bias=False)

    def forward(self, x: Tensor, load: RouterLoad | None = None, real: Tensor | None = None) -> Tensor:
        """
        Map (..., D) to (..., D).

        :param x: Tokens.
        :param load: Where to record this router's choices.
        :param real: (...), false for tokens that are padding and do not count in ``load``.
        :return: (..., D).
        """
        probabilities = self.router(x).softmax(dim=-1)
        weights, experts = probabilities.topk(self.n_chosen, dim=-1)
        if load is not None:
            load.add(self, probabilities, th.zeros_like(probabilities).scatter(-1, experts, 1.0), real)
        if self.renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        gate, routed_gate, up, routed_up = self.gate_up.weight.split(2 * self.widths)
        down, routed_down = self.down.weight.split(self.widths, dim=1)
        if self.n_routed <= 2 * self.n_chosen:
            routed = self._all_experts(x, experts, weights, routed_gate, routed_up, routed_down)
        else:
            stacked = [w.unflatten(0, (self.n_routed, -1)).mT for w in (routed_gate, routed_up, routed_down.T)]
            routed = self._chosen_experts(x, experts, weights, stacked[0], stacked[1], stacked[2].mT)
        if not self.widths[0]:
            return routed
        return routed + F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)

    def _all_experts(self, x: Tensor, experts: Tensor, weights: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """All experts as one wide SwiGLU, its hidden units scaled by their expert's weight, which is 0 if not chosen."""
        scale = weights.new_zeros(*weights.shape[:-1], self.n_routed).scatter(-1, experts, weights)
        hidden = (F.silu(F.linear(x, gate)) * F.linear(x, up)).unflatten(-1, (self.n_routed, -1))  # (..., E, F)
        return F.linear((hidden * scale[..., None]).flatten(-2), down)

    def _chosen_experts(self, x: Tensor, experts: Tensor, weights: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """
        Only the chosen experts, by batched products over experts, or over choices where these are fewer.

        :param gate: (E, D, F), ``up`` likewise.
        :param down: (E, F, D).
        """
        tokens, choice = x.reshape(-1, x.shape[-1]), experts.reshape(-1)  # (T, D), (T k,)
        source = th.arange(choice.shape[0], device=x.device) // self.n_chosen  # the token of each choice
        if th.compiler.is_exporting() or len(choice) <= self.n_routed:  # an exported graph has one form for all batches
            rows = tokens[source][:, None]  # (T k, 1, D)
            y = ((F.silu(rows @ gate[choice]) * (rows @ up[choice])) @ down[choice]).squeeze(1)
        else:
            y = self._by_expert(tokens[source], choice, gate, up, down)
        return (y * weights.reshape(-1, 1)).unflatten(0, (-1, self.n_chosen)).sum(1).view(x.shape)

    @th.compiler.disable  # its shapes depend on the choices
    def _by_expert(self, rows: Tensor, choice: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """Row by row the output of the expert ``choice`` (R,) for ``rows`` (R, D), by batched products over experts."""
        order = choice.argsort(stable=True)
        counts = choice.bincount(minlength=self.n_routed)
        first = counts.cumsum(0) - counts
        within = th.empty_like(order)
        within[order] = th.arange(len(order), device=rows.device) - first[choice[order]]  # rank among its expert's choices
        padded = rows.new_zeros(self.n_routed, int(counts.max()), rows.shape[1]).index_put((choice, within), rows)
        return ((F.silu(padded @ gate) * (padded @ up)) @ down)[choice, within]


def make_feedforward(config: ElmurConfig) -> SwiGLU | GELU | MixtureOfExperts:
    """The feed-forward network that ``config.ffn`` names."""
    if config.ffn == "moe":
        return MixtureOfExperts(config)
    dense = SwiGLU if config.ffn == "swiglu" else GELU
    return dense(config.d_model, config.d_ff or 2 * config.d_model)

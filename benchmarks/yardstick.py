"""
A straightforward ELMUR in batched PyTorch, to measure the package against.

It computes what ``sb3_elmur.core.elmur.Elmur`` computes, as one would write it first: attention by hand, masks and sinusoids
made when they are needed, one linear layer per projection, a Python loop over experts, candidates for all slots of which
one is kept, and a whole open segment run again for each of its steps. Without dropout.

Axis letters: B batch, T tokens, N layers, M slots, D width, H heads, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.elmur import Elmur


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class MixtureOfExperts(nn.Module):
    """Shared experts, always on, and routed ones, each applied to the tokens that chose it."""

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        d_ff = config.d_ff or 2 * config.d_model
        self.n_chosen = max(1, config.top_k - config.n_shared_experts)
        self.renormalise = config.router_gate == "renormalised"
        self.router = nn.Linear(config.d_model, config.n_routed_experts, bias=False)
        shared_d_ff, routed_d_ff = config.shared_d_ff or d_ff, config.routed_d_ff or d_ff
        self.shared = nn.ModuleList(SwiGLU(config.d_model, shared_d_ff) for _ in range(config.n_shared_experts))
        self.routed = nn.ModuleList(SwiGLU(config.d_model, routed_d_ff) for _ in range(config.n_routed_experts))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        tokens = x.reshape(-1, x.shape[-1])
        gates, chosen = self.router(tokens).softmax(dim=-1).topk(self.n_chosen, dim=-1)
        if self.renormalise:
            gates = gates / gates.sum(dim=-1, keepdim=True)
        y = th.zeros_like(tokens)
        for expert in self.shared:
            y = y + expert(tokens)
        for e, expert in enumerate(self.routed):
            mine = chosen == e  # (tokens, k)
            rows = mine.any(dim=-1)
            if rows.any():
                gate = gates[mine].unsqueeze(-1)  # a token chooses an expert at most once
                y[rows] = y[rows] + gate * expert(tokens[rows])
        return y.view_as(x)


def make_feedforward(config: ElmurConfig) -> nn.Module:
    """The feed-forward network that ``config.ffn`` names; GELU is left out."""
    if config.ffn == "moe":
        return MixtureOfExperts(config)
    if config.ffn == "swiglu":
        return SwiGLU(config.d_model, config.d_ff or 2 * config.d_model)
    raise ValueError(f"`ffn` must be 'swiglu' or 'moe'. Received {config.ffn!r}.")


class SelfAttention(nn.Module):
    """Causal self-attention with Transformer-XL relative positions."""

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        d = config.d_model
        self.n_heads = config.n_heads
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.distance = nn.Linear(d, d, bias=False)
        self.out = nn.Linear(d, d, bias=False)

    def forward(self, x: Tensor, content_bias: Tensor, distance_bias: Tensor) -> Tensor:
        """
        Attend to the segment so far.

        :param x: Tokens of one segment, (B, T, D).
        :param content_bias: (H, D / H); ``distance_bias`` likewise.
        :return: (B, T, D).
        """
        _, n, d = x.shape
        q, k, v = (project(x).unflatten(-1, (self.n_heads, -1)) for project in (self.query, self.key, self.value))
        frequencies = 10000.0 ** (-th.arange(0, d, 2, device=x.device) / d)
        angles = th.arange(n - 1, -1, -1, device=x.device)[:, None] * frequencies
        r = self.distance(th.cat((angles.sin(), angles.cos()), dim=-1)).unflatten(-1, (self.n_heads, -1))
        content = th.einsum("bihd,bjhd->bhij", q + content_bias, k)
        position = th.einsum("bihd,jhd->bhij", q + distance_bias, r)
        scores = (content + relative_shift(position)) / (d // self.n_heads) ** 0.5
        future = th.ones(n, n, dtype=th.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        return self.out(th.einsum("bhij,bjhd->bihd", weights, v).flatten(-2))


def relative_shift(scores: Tensor) -> Tensor:
    """Transformer-XL's shift: from columns of distance T-1, ..., 0 to columns of tokens, (B, H, T, T)."""
    batch, heads, n, _ = scores.shape
    return F.pad(scores, (1, 0)).view(batch, heads, n + 1, n)[:, :, 1:]


class CrossAttention(nn.Module):
    """Attention of tokens to slots, or of slots to tokens, with a relative bias."""

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        d = config.d_model
        self.n_heads = config.n_heads
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.out = nn.Linear(d, d)

    def forward(self, x: Tensor, other: Tensor, bias: Tensor) -> Tensor:
        """
        Attend from one to the other.

        :param x: What queries, (B, T, D).
        :param other: What is attended to, (B, S, D).
        :param bias: Added to the scaled scores, (B, T, S, H).
        :return: (B, T, D).
        """
        q, k, v = (
            project(y).unflatten(-1, (self.n_heads, -1))
            for project, y in ((self.query, x), (self.key, other), (self.value, other))
        )
        scores = th.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5 + bias.permute(0, 3, 1, 2)
        return self.out(th.einsum("bhij,bjhd->bihd", scores.softmax(dim=-1), v).flatten(-2))


class Residual(nn.Module):
    """``norm(x + f(x))``, or ``x + f(norm(x))`` if ``norm_first``."""

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.norm = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[config.norm](config.d_model, eps=1e-8)

    def before(self, x: Tensor) -> Tensor:
        """The sublayer's input."""
        return self.norm(x) if self.norm_first else x

    def after(self, x: Tensor, update: Tensor) -> Tensor:
        """The residual sum."""
        return x + update if self.norm_first else self.norm(x + update)


class Layer(nn.Module):
    """Token track and memory track."""

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.reach = config.max_distance - 1
        self.attention = SelfAttention(config)
        self.read, self.write = CrossAttention(config), CrossAttention(config)
        self.token_ffn, self.memory_ffn = make_feedforward(config), make_feedforward(config)
        self.relative_bias = nn.Embedding(2 * config.max_distance - 1, config.n_heads)
        self.around_attention, self.around_read, self.around_token_ffn = (Residual(config) for _ in range(3))
        self.around_write, self.around_memory_ffn = (Residual(config) for _ in range(2))

    def bias(self, distance: Tensor) -> Tensor:
        """Relative bias for distances in steps, (B, T, S) to (B, T, S, H)."""
        return self.relative_bias(distance.clamp(-self.reach, self.reach) + self.reach)

    def tokens(self, x: Tensor, slots: Tensor, bias: Tensor, content_bias: Tensor, distance_bias: Tensor) -> Tensor:
        """Outputs (B, T, D) for tokens (B, T, D), slots (B, M, D) and ``bias`` (B, T, M, H)."""
        around = self.around_attention
        x = around.after(x, self.attention(around.before(x), content_bias, distance_bias))
        x = self.around_read.after(x, self.read(self.around_read.before(x), slots, bias))
        return self.around_token_ffn.after(x, self.token_ffn(self.around_token_ffn.before(x)))

    def candidates(self, slots: Tensor, outputs: Tensor, bias: Tensor) -> Tensor:
        """New content of all slots (B, M, D), from the layer's outputs (B, L, D) and ``bias`` (B, M, L, H)."""
        slots = self.around_write.after(slots, self.write(self.around_write.before(slots), outputs, bias))
        return self.around_memory_ffn.after(slots, self.memory_ffn(self.around_memory_ffn.before(slots)))


class StepState(NamedTuple):
    """
    State between steps. All rows are at the same phase of their segment.

    :param slots: (B, N, M, D).
    :param anchors: (B, M) int64.
    :param start: Time of the open segment's first token, (B,) int64.
    :param window: Inputs of the open segment's earlier tokens, (B, less than L, D).
    """

    slots: Tensor
    anchors: Tensor
    start: Tensor
    window: Tensor


class StraightforwardElmur(nn.Module):
    """
    A stack of ELMUR layers, written plainly.

    :param config: Its hyper-parameters; dropout is not implemented.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.config = config
        head = (config.n_heads, config.d_model // config.n_heads)
        self.content_bias = nn.Parameter(th.zeros(head))
        self.distance_bias = nn.Parameter(th.zeros(head))
        self.layers = cast("Sequence[Layer]", nn.ModuleList(Layer(config) for _ in range(config.n_layers)))

    def segment(self, x: Tensor, slots: Tensor, anchors: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Run one segment, or its first part, which writes nothing.

        :param x: Tokens, (B, T, D) with T at most L.
        :param slots: (B, N, M, D).
        :param anchors: (B, M) int64, -1 for an empty slot.
        :param start: Time of the first token, (B,) int64.
        :return: Outputs (B, T, D), slots and anchors after the segment.
        """
        n = x.shape[1]
        time = start[:, None] + th.arange(n, device=x.device)
        full = n == self.config.segment_length
        distance = time[:, :, None] - anchors[:, None, :]  # (B, T, M)
        candidates = []
        for i, layer in enumerate(self.layers):
            x = layer.tokens(x, slots[:, i], layer.bias(distance), self.content_bias, self.distance_bias)
            if full:
                candidates.append(layer.candidates(slots[:, i], x, layer.bias(-distance.transpose(1, 2))))
        if not full:
            return x, slots, anchors
        oldest = F.one_hot(anchors.argmin(dim=1), anchors.shape[1]).bool()  # (B, M)
        weight = th.where(anchors == -1, 1.0, self.config.lru_blend)[:, None, :, None]
        blended = weight * th.stack(candidates, dim=1) + (1 - weight) * slots
        return x, th.where(oldest[:, None, :, None], blended, slots), th.where(oldest, time[:, -1:], anchors)

    def initial_state(self, slots: Tensor, anchors: Tensor) -> StepState:
        """State at an episode's start, for memory (B, N, M, D) and its anchors (B, M)."""
        start = anchors.new_zeros(len(anchors))
        return StepState(slots, anchors, start, slots.new_zeros(len(slots), 0, slots.shape[-1]))

    def step(self, x: Tensor, state: StepState) -> tuple[Tensor, StepState]:
        """
        Run one token per row, and the open segment's earlier tokens again.

        :param x: (B, D).
        :return: Outputs (B, D), and the state after the step.
        """
        window = th.cat((state.window, x[:, None]), dim=1)
        y, slots, anchors = self.segment(window, state.slots, state.anchors, state.start)
        if window.shape[1] < self.config.segment_length:
            return y[:, -1], state._replace(window=window)
        return y[:, -1], StepState(slots, anchors, state.start + window.shape[1], window[:, :0])

    def load_from(self, elmur: Elmur) -> StraightforwardElmur:
        """
        Copy the weights of the package's stack.

        :param elmur: A stack of the same configuration.
        :return: This stack.
        """
        source = {k: v for k, v in elmur.state_dict().items() if k != "initial_slots"}
        target: dict[str, Tensor] = {}
        for name, weight in source.items():
            prefix, _, kind = name.rpartition(".")
            module, _, part = prefix.rpartition(".")
            if part == "qkv":
                split = weight.chunk(3)
                target |= {f"{module}.{p}.{kind}": w for p, w in zip(("query", "key", "value"), split, strict=True)}
            elif part == "key_value":
                target |= {f"{module}.{p}.{kind}": w for p, w in zip(("key", "value"), weight.chunk(2), strict=True)}
            elif kind == "relative_bias":
                target[f"{name}.weight"] = weight
            elif part in ("gate_up", "down") and self.config.ffn == "moe":
                target |= self._split_experts(module, part, weight)
            elif part == "gate_up":
                target |= {f"{module}.{p}.{kind}": w for p, w in zip(("gate", "up"), weight.chunk(2), strict=True)}
            else:
                target[name] = weight
        self.load_state_dict(target)
        return self

    def _split_experts(self, module: str, part: str, weight: Tensor) -> dict[str, Tensor]:
        """Each expert's share of the package's stacked weights: shared experts come first."""
        experts = cast("MixtureOfExperts", self.get_submodule(module))
        names = [f"{kind}.{e}" for kind in ("shared", "routed") for e in range(len(getattr(experts, kind)))]
        widths = [cast("SwiGLU", experts.get_submodule(name)).gate.out_features for name in names]
        stacked = {"gate": weight.chunk(2)[0], "up": weight.chunk(2)[1]} if part == "gate_up" else {"down": weight}
        return {
            f"{module}.{name}.{p}.weight": w
            for p, whole in stacked.items()
            for name, w in zip(names, whole.split(widths, dim=1 if p == "down" else 0), strict=True)
        }

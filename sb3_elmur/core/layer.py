"""One ELMUR layer, and what it keeps between steps."""

from collections.abc import Callable
from typing import NamedTuple

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.core.attention import CrossAttention, SelfAttention, split_heads
from sb3_elmur.core.blending import make_blend
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.feedforward import RouterLoad, make_feedforward


class Residual(nn.Module):
    """A sublayer's normalisation, dropout and residual sum: ``norm(x + f(x))``, or ``x + f(norm(x))`` if ``norm_first``."""

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.norm = make_norm(config)
        self.dropout = make_dropout(config.dropout)

    def before(self, x: Tensor) -> Tensor:
        """The sublayer's input."""
        return self.norm(x) if self.norm_first else x

    def after(self, x: Tensor, update: Tensor) -> Tensor:
        """The residual sum of ``x`` and the sublayer's output."""
        y = x + self.dropout(update)
        return y if self.norm_first else self.norm(y)


def make_norm(config: ElmurConfig) -> nn.Module:
    """The normalisation that ``config.norm`` names."""
    return {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[config.norm](config.d_model, eps=1e-8)


def make_dropout(probability: float) -> nn.Module:
    """Dropout, or nothing where it would do nothing."""
    return nn.Dropout(probability) if probability > 0 else nn.Identity()


class LayerCache(NamedTuple):
    """
    What one layer keeps between steps; valid while the weights stay the same.

    :param keys_values: Keys and values of the open segment's tokens, (B, H, L, 2 D / H).
    :param slot_keys: Keys of the slots, (B, H, M, D / H); ``slot_values`` likewise.
    """

    keys_values: Tensor
    slot_keys: Tensor
    slot_values: Tensor


class LayerConstants(NamedTuple):
    """
    What one layer derives from its weights alone.

    :param slot_keys: Keys of the initial slots, (H, M, D / H); ``slot_values`` likewise.
    :param weight: Of the linear map :meth:`sb3_elmur.core.attention.SelfAttention.projection`; ``bias`` likewise.
    """

    slot_keys: Tensor
    slot_values: Tensor
    weight: Tensor
    bias: Tensor


_MEMORY_PARTS = (
    "read", "write", "memory_ffn", "relative_bias", "around_read", "around_write", "around_memory_ffn", "candidate_dropout",
    "blend",
)  # fmt: skip


class ElmurLayer(nn.Module):
    """
    One layer: token track (self-attention, read, feed-forward) and memory track (write, feed-forward).

    Without slots (``memory_size=0``) only self-attention and feed-forward.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.read = CrossAttention(config)
        self.token_ffn = make_feedforward(config)
        self.write = CrossAttention(config)
        self.memory_ffn = make_feedforward(config)
        self.relative_bias = nn.Parameter(th.zeros(2 * config.max_distance - 1, config.n_heads))
        self.around_attention, self.around_read, self.around_token_ffn = (Residual(config) for _ in range(3))
        self.around_write, self.around_memory_ffn = (Residual(config) for _ in range(2))
        self.candidate_dropout = make_dropout(config.memory_dropout)
        self.blend = make_blend(config)
        if not config.memory_size:
            for part in _MEMORY_PARTS:
                delattr(self, part)

    def project(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of slots, (..., M, D), for the read."""
        return self.read.project(slots) if slots.shape[-2] else (slots, slots)

    def project_heads(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`project`, by head, each (..., H, M, D / H)."""
        key, value = (split_heads(part, self.attention.n_heads).contiguous() for part in self.project(slots))
        return key, value

    def bias(self, index: Tensor) -> Tensor:
        """Rows of the relative bias table: (B, T, S) to (B, H, T, S)."""
        return self._bias_rows(index).permute(0, 3, 1, 2)

    def _bias_rows(self, index: Tensor) -> Tensor:
        """(...) to (..., H); the backward pass of `index_select` is much faster than that of `embedding`."""
        return self.relative_bias.index_select(0, index.flatten()).unflatten(0, index.shape)

    def read_and_feed(
        self, x: Tensor, slots: Tensor, initial: Tensor, read_index: Tensor, load: RouterLoad | None = None,
        real: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """
        The token track after self-attention: read the slots, if there are any, then the feed-forward network.

        :param x: Tokens, (B, T, D).
        :param slots: The first S slots of every row, (B, S, D).
        :param initial: The last R slots, which are the same in all rows since nothing was written to them, (R, D).
        :param read_index: Rows of the relative bias table, (B, T, S), with R > 0 one more for the last slots.
        :param load: Where to record router choices, for tokens that are ``real`` (B, T).
        :return: The layer's output, (B, T, D).
        """
        if read_index.shape[2]:
            bias, shared = self.bias(read_index), None
            if len(initial):  # a softmax does not see what all scores have in common
                bias, shared = bias[..., :-1] - bias[..., -1:], self.project(initial)
            x = self.around_read.after(x, self.read(self.around_read.before(x), *self.read.project(slots), bias, shared))
        return self.around_token_ffn.after(x, self.token_ffn(self.around_token_ffn.before(x), load, real))

    def step(
        self, x: Tensor, cache: LayerCache, constants: LayerConstants, place: tuple[Tensor, Tensor, Tensor], distance: Tensor,
        read_index: Tensor, put: Callable[..., Tensor],
    ) -> tuple[Tensor, LayerCache]:  # fmt: skip
        """
        The token track for one token per row.

        :param x: Tokens, (B, D).
        :param cache: Of the tokens before.
        :param constants: What the layer derives from its weights.
        :param place: Indices of row, head and step at which the cache takes these tokens, broadcast to (B, H).
        :param distance: From these tokens back to the others of their segment, (B, L) int64; L for later ones.
        :param read_index: Rows of the relative bias table, (B, M).
        :param put: ``Tensor.index_put`` or, to write into the cache, ``Tensor.index_put_``.
        :return: The layer's output (B, D), and the cache with these tokens.
        """
        projected = F.linear(self.around_attention.before(x), constants.weight, constants.bias)
        q, k_v, scores = self.attention.split(projected)
        cache = cache._replace(keys_values=put(cache.keys_values, place, k_v))
        x = self.around_attention.after(x, self.attention.step(q, cache.keys_values, scores, distance))
        if cache.slot_keys.shape[2]:
            bias = self._bias_rows(read_index).mT
            read = self.read.step(self.around_read.before(x), cache.slot_keys, cache.slot_values, bias)
            x = self.around_read.after(x, read)
        return self.around_token_ffn.after(x, self.token_ffn(self.around_token_ffn.before(x))), cache

    def rewrite(
        self, slot: Tensor, blank: Tensor, empty: Tensor, outputs: Tensor, write_index: Tensor, load: RouterLoad | None = None
    ) -> Tensor:
        """
        New content of the slot about to be written. Slots do not interact, so the others need none.

        :param slot: Its old content, (B, 1, D).
        :param blank: Its content at the episode's start, (B, 1, D).
        :param empty: Whether nothing was written to it yet, (B,) bool; then the candidate replaces it.
        :param outputs: The layer's outputs for the whole segment, (B, L, D).
        :param write_index: Rows of the relative bias table, (B, 1, L).
        :param load: Where to record router choices.
        :return: (B, 1, D).
        """
        x = blank if self.blend.from_blank else slot
        keys, values = self.write.project(outputs)
        x = self.around_write.after(x, self.write(self.around_write.before(x), keys, values, self.bias(write_index)))
        x = self.around_memory_ffn.after(x, self.memory_ffn(self.around_memory_ffn.before(x), load))
        candidate = self.candidate_dropout(x)
        weight = self.blend(slot, candidate).masked_fill(empty[:, None, None], 1.0)
        return slot.lerp(candidate, weight.to(slot.dtype).expand_as(slot))

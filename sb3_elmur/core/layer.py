"""
One ELMUR layer: attend, read, feed, and once per segment write.

:meth:`ElmurLayer.tokens` runs whole segments, :meth:`ElmurLayer.step` one token with caches; they give the same numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from torch import Tensor, nn

from sb3_elmur.core.attention import CrossAttention, Place, Put, SelfAttention, split_heads
from sb3_elmur.core.blending import make_blend
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.feedforward import RouterLoad, make_feedforward
from sb3_elmur.core.states import LayerCache, LayerConstants


class Residual(nn.Module):
    """
    A sublayer's normalisation, dropout and residual sum: ``norm(x + f(x))``, or ``x + f(norm(x))`` if ``norm_first``.

    :param config: Kind and place of the norm, and the dropout.
    """

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

    def forward(self, x: Tensor, sublayer: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """
        Run a sublayer with its residual sum.

        :param x: (..., D).
        :param sublayer: From :meth:`before` of ``x``, and the other ``arguments``, to an update (..., D).
        :return: (..., D).
        """
        return self.after(x, sublayer(self.before(x), *arguments))


def make_norm(config: ElmurConfig) -> nn.Module:
    """The normalisation that ``config.norm`` names."""
    return {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[config.norm](config.d_model, eps=1e-8)


def make_dropout(probability: float) -> nn.Module:
    """Dropout, or nothing where it would do nothing."""
    return nn.Dropout(probability) if probability > 0 else nn.Identity()


class ReadSlots(NamedTuple):
    """
    The slots that tokens read.

    Slots to which no row has written hold the same vectors in all rows: their keys and values are computed once.

    :param own: The first S slots of every row, (B, S, D).
    :param initial: The last R slots, which no row has written, (R, D).
    :param bias_index: Rows of the relative bias table, (B, T, S); with R > 0 one more column, for all of the last slots.
    """

    own: Tensor
    initial: Tensor
    bias_index: Tensor


class ElmurLayer(nn.Module):
    """
    One layer. Token track: self-attention, read (mem2tok), feed-forward. Memory track: write (tok2mem), feed-forward, blend.

    :meth:`tokens` and :meth:`step` are two ways to run the token track, :meth:`rewrite` is the memory track. Without slots
    (``memory_size=0``) there are only self-attention and feed-forward.

    :param config: Its hyper-parameters.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        # saved optimizers number parameters in this order
        self.has_memory = config.memory_size > 0
        self.attention = SelfAttention(config)
        if self.has_memory:
            self.read = CrossAttention(config)
        self.token_ffn = make_feedforward(config)
        if self.has_memory:
            self.write = CrossAttention(config)
            self.memory_ffn = make_feedforward(config)
            self.relative_bias = nn.Parameter(th.zeros(2 * config.max_distance - 1, config.n_heads))
        self.around_attention = Residual(config)
        if self.has_memory:
            self.around_read = Residual(config)
        self.around_token_ffn = Residual(config)
        if self.has_memory:
            self.around_write, self.around_memory_ffn = Residual(config), Residual(config)
            self.candidate_dropout = make_dropout(config.memory_dropout)
            self.blend = make_blend(config)

    def tokens(
        self,
        x: Tensor,
        slots: ReadSlots,
        projection: tuple[Tensor, Tensor],
        distance: Tensor,
        load: RouterLoad | None = None,
        real: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """
        Run the token track for the first T tokens of a segment, all in parallel.

        :param x: Tokens, (B, T, D).
        :param slots: What they read.
        :param projection: Of self-attention, see :meth:`sb3_elmur.core.attention.SelfAttention.projection`.
        :param distance: From each token back to each other, (T, T) int64; L for later ones.
        :param load: Where to record router choices, for tokens that are ``real`` (B, T).
        :return: The layer's output, (B, T, D), and keys and values of self-attention, (B, T, H, 2 D / H).
        """
        attended, keys_values = self.attention(self.around_attention.before(x), projection, distance)
        x = self.around_attention.after(x, attended)
        if self.has_memory:
            x = self.around_read(x, self.read, *self._keys_values_bias(slots))
        return self.around_token_ffn(x, self.token_ffn, load, real), keys_values

    def step(
        self,
        x: Tensor,
        cache: LayerCache,
        constants: LayerConstants,
        place: Place,
        distance: Tensor,
        read_index: Tensor,
        put: Put,
    ) -> tuple[Tensor, LayerCache]:
        """
        Run the token track for one token per row.

        :param x: Tokens, (B, D).
        :param cache: Of the tokens before.
        :param constants: What the layer derives from its weights.
        :param place: Indices of row, head and step at which the cache takes these tokens, broadcast to (B, H).
        :param distance: From these tokens back to the others of their segment, (B, L) int64; L for later ones.
        :param read_index: Rows of the relative bias table, (B, M).
        :param put: ``Tensor.index_put`` or, to write into the cache, ``Tensor.index_put_``.
        :return: The layer's output (B, D), and the cache with these tokens.
        """
        projection = constants.weight, constants.bias
        attended, keys_values = self.attention.step(
            self.around_attention.before(x), projection, distance, cache.keys_values, place, put
        )
        x = self.around_attention.after(x, attended)
        if self.has_memory:
            x = self.around_read(x, self.read.step, cache.slot_keys, cache.slot_values, self._bias_rows(read_index).mT)
        return self.around_token_ffn(x, self.token_ffn), cache._replace(keys_values=keys_values)

    def rewrite(
        self, slot: Tensor, blank: Tensor, empty: Tensor, outputs: Tensor, write_index: Tensor, load: RouterLoad | None = None
    ) -> Tensor:
        """
        Compute the new content of the slot about to be written: tok2mem, and the blend of the paper's LRU update.

        An empty slot takes the candidate, another one ``lambda * candidate + (1 - lambda) * old``, where the blend gives
        lambda. Slots do not interact, so the others need no candidate.

        :param slot: Its old content, (B, 1, D).
        :param blank: Its content at the episode's start, (B, 1, D).
        :param empty: Whether nothing was written to it yet, (B,) bool.
        :param outputs: The layer's outputs for the whole segment, (B, L, D).
        :param write_index: Rows of the relative bias table, (B, 1, L).
        :param load: Where to record router choices.
        :return: (B, 1, D).
        """
        x = blank if self.blend.from_blank else slot
        x = self.around_write(x, self.write, *self.write.project(outputs), self.bias(write_index))
        x = self.around_memory_ffn(x, self.memory_ffn, load)
        candidate = self.candidate_dropout(x)
        weight = self.blend(slot, candidate).masked_fill(empty[:, None, None], 1.0)
        return slot.lerp(candidate, weight.to(slot.dtype).expand_as(slot))

    def write_outputs(self) -> list[nn.Parameter]:
        """The last weights on the way into a slot, which nothing but later reads can give a gradient; none without slots."""
        return list(self.memory_ffn.down.parameters()) if self.has_memory else []

    def slot_keys_values(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of slots (..., M, D) by head, each (..., H, M, D / H); of no slots nothing."""
        parts = self.read.project(slots) if self.has_memory else (slots, slots)
        key, value = (split_heads(part, self.attention.n_heads).contiguous() for part in parts)
        return key, value

    def bias(self, index: Tensor) -> Tensor:
        """Rows of the relative bias table: (B, T, S) to (B, H, T, S)."""
        return self._bias_rows(index).permute(0, 3, 1, 2)

    def _bias_rows(self, index: Tensor) -> Tensor:
        """(...) to (..., H); the backward pass of `index_select` is much faster than that of `embedding`."""
        return self.relative_bias.index_select(0, index.flatten()).unflatten(0, index.shape)

    def _keys_values_bias(self, slots: ReadSlots) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """What :class:`CrossAttention` needs to read slots, beside the tokens."""
        bias, initial = self.bias(slots.bias_index), None
        if len(slots.initial):  # a softmax does not see what all scores have in common
            bias, initial = bias[..., :-1] - bias[..., -1:], self.read.project(slots.initial)
        return *self.read.project(slots.own), bias, initial

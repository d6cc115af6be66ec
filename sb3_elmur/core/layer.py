"""
One ELMUR layer: attend, read, feed, and once per segment write.

:meth:`ElmurLayer.segments` runs chains of segments, :meth:`ElmurLayer.step` one token with caches; they give the same numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from torch import Tensor, nn

from sb3_elmur.core.attention import Place, Put, ReadAttention, SelfAttention, WriteAttention, split_heads
from sb3_elmur.core.blending import make_blend
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.feedforward import RouterLoad, make_feedforward
from sb3_elmur.core.schedule import Write
from sb3_elmur.core.states import LayerCache, LayerConstants

WriteMaps = tuple[Tensor, Tensor]


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


class SegmentInputs(NamedTuple):
    """
    What the layers share that run chains of segments, P pieces of T tokens, W of which write.

    Slots to which no row writes hold the same vectors in all rows: their keys and values are computed once.

    :param counts: Pieces of each segment.
    :param writes: Of each segment.
    :param own: How many of each row's slots, the first ones, are its own; the others are the initial slots.
    :param distance: From each token back to each other, (T, T) int64; L for later ones.
    :param read_index: Rows of the relative bias table, (P, T, S); if there are initial slots one more column, for all of them.
    :param write_index: Rows of the same table, (W, 1, L), in the order of the writes.
    :param load: Where to record router choices, for tokens that are ``real`` (P, T).
    :param real: ``None`` if they are not recorded.
    """

    counts: tuple[int, ...]
    writes: tuple[Write | None, ...]
    own: int
    distance: Tensor
    read_index: Tensor
    write_index: Tensor
    load: RouterLoad | None = None
    real: Tensor | None = None


class WriteArguments(NamedTuple):
    """
    What a write needs beside what memory holds and what has been seen; b rows write.

    :param empty: Whether nothing was written to the slot yet, (b,) bool.
    :param blank: The slot's content at the episode's start, (b, D).
    :param queries: Of what the blend queries tokens with, (b, H, D); ``None`` if that is the slot's content.
    :param bias: Relative bias between the slot and the tokens, (b, H, L).
    :param maps: What :meth:`ElmurLayer.write_maps` returned.
    """

    empty: Tensor
    blank: Tensor
    queries: Tensor | None
    bias: Tensor
    maps: WriteMaps


class ElmurLayer(nn.Module):
    """
    One layer. Token track: self-attention, read (mem2tok), feed-forward. Memory track: write (tok2mem), feed-forward, blend.

    :meth:`segments` and :meth:`step` are two ways to run the token track, :meth:`rewrite` is the memory track. Without slots
    (``memory_size=0``) there are only self-attention and feed-forward.

    :param config: Its hyper-parameters.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        # saved optimizers number parameters in this order
        self.has_memory = config.memory_size > 0
        self.attention = SelfAttention(config)
        if self.has_memory:
            self.read = ReadAttention(config)
        self.token_ffn = make_feedforward(config)
        if self.has_memory:
            self.write = WriteAttention(config)
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

    def segments(
        self, x: Tensor, slots: Tensor, initial: Tensor, projection: tuple[Tensor, Tensor], chains: SegmentInputs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Run chains of segments.

        Only what depends on memory runs segment by segment: the read, and all that follows it.

        :param x: Tokens, (P, T, D).
        :param slots: Each chain's own, (C, S, D).
        :param initial: At an episode's start, (M, D).
        :param projection: Of self-attention, see :meth:`sb3_elmur.core.attention.SelfAttention.projection`.
        :param chains: What the layers share.
        :return: The layer's outputs, (P, T, D); keys and values of self-attention, (P, T, H, 2 D / H); and its own slots after
            the last segment, of the chains that reach it.
        """
        attended, keys_values = self.attention(self.around_attention.before(x), projection, chains.distance)
        x = self.around_attention.after(x, attended)
        if not self.has_memory:
            return self.around_token_ffn(x, self.token_ffn, chains.load, chains.real), keys_values, slots

        bias, shared = self.bias(chains.read_index), None
        if chains.own < len(initial):  # a softmax does not see what all scores have in common
            bias, shared = bias[..., :-1] - bias[..., -1:], self.read.keys_values(initial[chains.own :])
        bias = bias.flatten(0, 1)  # (P H, T, S)
        rows, n_heads = x.flatten(0, 1), self.read.n_heads  # (P T, D)
        queries = self.read.queries(self.around_read.before(rows), x.shape[0])  # (P H, T, D / H)
        by_head = [count * n_heads for count in chains.counts]
        n_rows = [count * x.shape[1] for count in chains.counts]
        reals = [None] * len(n_rows) if chains.real is None else chains.real.flatten().split(n_rows)
        write_arguments = iter(self.write_arguments(initial, chains))
        outputs = []
        parts = (rows.split(n_rows), queries.split(by_head), bias.split(by_head), reals)
        for token, query, read_bias, real, count, write in zip(*parts, chains.counts, chains.writes, strict=True):
            slots = slots if count == len(slots) else slots[:count]
            y = self.around_read.after(token, self.read(query, *self.read.keys_values(slots), read_bias, shared))
            y = self.around_token_ffn(y, self.token_ffn, chains.load, real)  # (C T, D)
            outputs.append(y)
            if write is not None:
                segment = y.unflatten(0, (count, -1))
                segment = segment if len(write.rows) == count else segment[write.rows]  # (b, L, D)
                place = write.rows, write.slot
                slots = slots.index_put(place, self.rewrite(slots[place], segment, next(write_arguments), chains.load))
        return th.cat(outputs).view_as(x), keys_values, slots

    def write_arguments(self, initial: Tensor, chains: SegmentInputs) -> list[WriteArguments]:
        """
        For all writes at once, what does not depend on memory.

        :param initial: Slots at an episode's start, (M, D).
        :param chains: What the layers share.
        :return: For each segment that is written.
        """
        writes = [write for write in chains.writes if write]
        if not writes:
            return []
        maps, sizes = self.write.maps(), [len(write.rows) for write in writes]
        blank = initial[th.cat([write.slot for write in writes])]  # (W, D)
        bias = self.bias(chains.write_index).squeeze(2)  # (W, H, L)
        queries = self.write_queries(blank, maps).split(sizes) if self.blend.from_blank else (None,) * len(writes)
        parts = zip(writes, blank.split(sizes), queries, bias.split(sizes), strict=True)
        return [WriteArguments(write.empty, slots, query, own_bias, maps) for write, slots, query, own_bias in parts]

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
        :param distance: From these tokens back to the others of their segment, (B, H, L) int64; L for later ones.
        :param read_index: Rows of the relative bias table, (B, 1, M).
        :param put: ``Tensor.index_put`` or, to write into the cache, ``Tensor.index_put_``.
        :return: The layer's output (B, D), and the cache with these tokens.
        """
        projection = constants.weight, constants.bias
        attended, keys_values = self.attention.step(
            self.around_attention.before(x), projection, distance, cache.keys_values, place, put
        )
        x = self.around_attention.after(x, attended)
        if self.has_memory:
            q = self.read.queries(self.around_read.before(x), x.shape[0])  # (B H, 1, D / H)
            read = self.read(q, cache.slot_keys, cache.slot_values, self.bias(read_index).flatten(0, 1))
            x = self.around_read.after(x, read)
        return self.around_token_ffn(x, self.token_ffn), cache._replace(keys_values=keys_values)

    def rewrite(self, slot: Tensor, outputs: Tensor, write: WriteArguments, load: RouterLoad | None = None) -> Tensor:
        """
        Compute the new content of the slot about to be written: tok2mem, and the blend of the paper's LRU update.

        An empty slot takes the candidate, another one ``lambda * candidate + (1 - lambda) * old``, where the blend gives
        lambda. Slots do not interact, so the others need no candidate.

        :param slot: Its old content, (b, D).
        :param outputs: The layer's outputs for the whole segment, (b, L, D).
        :param write: What it needs besides.
        :param load: Where to record router choices.
        :return: (b, D).
        """
        x = write.blank if self.blend.from_blank else slot
        queries = self.write_queries(x, write.maps) if write.queries is None else write.queries
        x = self.around_write.after(x, self.write(queries, outputs, write.bias, write.maps[1]))
        candidate = self.candidate_dropout(self.around_memory_ffn(x, self.memory_ffn, load))
        weight = self.blend(slot, candidate).masked_fill(write.empty[:, None], 1.0)
        return slot.lerp(candidate, weight.to(slot.dtype))

    def write_queries(self, slots: Tensor, maps: WriteMaps) -> Tensor:
        """Queries of slots (b, D) by head, (b, H, D)."""
        return self.write.queries(self.around_write.before(slots), maps[0])

    def write_maps(self) -> WriteMaps:
        """See :meth:`sb3_elmur.core.attention.WriteAttention.maps`; without slots they are empty."""
        nothing = self.attention.out.weight[:0]
        return self.write.maps() if self.has_memory else (nothing, nothing)

    def write_outputs(self) -> list[nn.Parameter]:
        """The last weights on the way into a slot, which nothing but later reads can give a gradient; none without slots."""
        return list(self.memory_ffn.down.parameters()) if self.has_memory else []

    def slot_keys_values(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of slots (..., M, D) by head, each (..., H, M, D / H); of no slots nothing."""
        if self.has_memory:
            return self.read.keys_values(slots)
        nothing = split_heads(slots, self.attention.n_heads)
        return nothing, nothing

    def bias(self, index: Tensor) -> Tensor:
        """
        Rows of the relative bias table: (B, T, S) to (B, H, T, S).

        The backward pass of `index_select` is much faster than that of `embedding`.
        """
        return self.relative_bias.index_select(0, index.flatten()).unflatten(0, index.shape).permute(0, 3, 1, 2)

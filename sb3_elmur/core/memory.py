"""
The recurrent state of an ELMUR stack, and pure functions on it.

Axis letters, here and in the whole package, batch first: B batch, T tokens (time), N layers, M slots, D width, H heads,
E experts. L is the segment length.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch as th
from torch import Tensor

EMPTY = -1  # anchor of a slot that nothing was written to


class Memory(NamedTuple):
    """
    What an episode remembers, one row per environment; all fields are batch first.

    :param slots: Slot vectors of every layer, (B, N, M, D).
    :param anchors: Time of the last token of the segment from which a slot was written, (B, M) int64, in steps since the
        episode's start; -1 for an empty slot. All layers write the same slot, so they share it.
    :param position: Steps taken since the episode's start, (B,) int64; the time of the next token.
    """

    slots: Tensor
    anchors: Tensor
    position: Tensor

    def rows(self, index: Tensor | slice) -> "Memory":
        """The rows that ``index`` selects."""
        return Memory(*(field[index] for field in self))


def fresh_memory(initial_slots: Tensor, batch: int) -> Memory:
    """
    Memory at an episode's start.

    :param initial_slots: Initial slot vectors, (N, M, D).
    :param batch: Number of rows B.
    """
    device = initial_slots.device
    return Memory(
        slots=initial_slots.expand(batch, -1, -1, -1),
        anchors=th.full((batch, initial_slots.shape[1]), EMPTY, device=device),
        position=th.zeros(batch, dtype=th.int64, device=device),
    )


def reset_memory(memory: Memory, initial_slots: Tensor, episode_starts: Tensor) -> Memory:
    """
    Replace the rows that begin an episode by fresh memory.

    :param memory: Memory of B rows, left as it is.
    :param initial_slots: Initial slot vectors, (N, M, D).
    :param episode_starts: (B,), true where an episode begins.
    """
    starts = episode_starts.bool()
    return Memory(
        slots=th.where(starts[:, None, None, None], initial_slots, memory.slots),
        anchors=memory.anchors.masked_fill(starts[:, None], EMPTY),
        position=memory.position.masked_fill(starts, 0),
    )


def least_recently_written(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """
    The slot to write next (LRU): the first empty one if there is any, else the one with the smallest anchor.

    :param anchors: (B, M) int64.
    :return: Slot index (B,) int64, and whether that slot is empty (B,) bool.
    """
    slot = anchors.argmin(dim=1)
    return slot, anchors.gather(1, slot[:, None]).squeeze(1) == EMPTY


def write_slot(memory: Memory, rows: Tensor, slot: Tensor, content: Tensor, time: Tensor, *, inplace: bool = False) -> Memory:
    """
    Overwrite one slot, the same in all layers, of some rows.

    :param memory: Memory of B rows, left as it is unless ``inplace``.
    :param rows: Rows to write, (b,) int64.
    :param slot: Slot of each of these rows, (b,) int64.
    :param content: New slot vectors, (b, N, D).
    :param time: Anchor of the written slots, (b,) int64.
    :param inplace: Whether to write into the tensors of ``memory``.
    """
    put = Tensor.index_put_ if inplace else Tensor.index_put
    layers = th.arange(memory.slots.shape[1], device=rows.device)
    slots = put(memory.slots, (rows[:, None], layers, slot[:, None]), content)
    return memory._replace(slots=slots, anchors=put(memory.anchors, (rows, slot), time))


@dataclass(frozen=True)
class PackedLayout:
    """
    How memory and open segment travel in sb3-contrib's (hidden, cell) pair of shape (1, B, ``hidden_size``), float32.

    The pair is one flat vector cut into two halves: slots, inputs of the open segment's earlier tokens, anchors + 1, and
    position. Integers are stored as two exact float32 parts, multiples of 2^20 and the rest, so that any episode shorter
    than 2^44 steps is exact. A pair of zeros is an episode's start.

    :param n_layers: N.
    :param memory_size: M.
    :param d_model: D.
    :param segment_length: L.
    """

    n_layers: int
    memory_size: int
    d_model: int
    segment_length: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Floats used by slots, tokens, and the integers' high and low parts."""
        integers = self.memory_size + 1
        slots = self.n_layers * self.memory_size * self.d_model
        return slots, (self.segment_length - 1) * self.d_model, integers, integers

    @property
    def hidden_size(self) -> int:
        """Width of each half of the pair."""
        return math.ceil(sum(self.sizes) / 2)

    def pack(self, memory: Memory, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param memory: Memory of B rows.
        :param tokens: Inputs of the open segment's tokens, (B, L - 1, D).
        :return: The pair, each (1, B, ``hidden_size``).
        """
        integers = th.cat((memory.anchors - EMPTY, memory.position[:, None]), dim=1)
        parts = (memory.slots.flatten(1), tokens.flatten(1), integers >> 20, integers & (2**20 - 1))
        flat = th.cat([part.float() for part in parts], dim=1)
        padded = th.nn.functional.pad(flat, (0, 2 * self.hidden_size - flat.shape[1]))
        hidden, cell = padded[None].chunk(2, dim=2)
        return hidden, cell

    def unpack(self, pair: tuple[Tensor, ...], initial_slots: Tensor) -> tuple[Memory, Tensor]:
        """
        Undo :meth:`pack`.

        :param pair: Hidden and cell, each (1, B, ``hidden_size``).
        :param initial_slots: Initial slot vectors, (N, M, D), for rows at an episode's start.
        :return: Memory of B rows, and the open segment's tokens (B, L - 1, D).
        """
        flat = th.cat((pair[0][0], pair[1][0]), dim=1)
        slots, tokens, high, low = flat[:, : sum(self.sizes)].split(self.sizes, dim=1)
        integers = (high.long() << 20) + low.long()
        memory = Memory(
            slots=slots.unflatten(1, (self.n_layers, self.memory_size, self.d_model)),
            anchors=integers[:, :-1] + EMPTY,
            position=integers[:, -1],
        )
        tokens = tokens.unflatten(1, (self.segment_length - 1, self.d_model))
        return reset_memory(memory, initial_slots, memory.position == 0), tokens

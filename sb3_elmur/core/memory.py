"""
What an episode remembers, and pure functions on it.

Axis letters, here and in the whole package, batch first: B batch, T tokens (time), N layers, M slots, D width, H heads,
E experts. L is the segment length. :mod:`sb3_elmur.core.states` lists every other form of recurrent state.
"""

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

    def phase(self, segment_length: int) -> Tensor:
        """Steps taken in the open segment, (B,) int64, below ``segment_length``."""
        return self.position % segment_length

    def segment_start(self, segment_length: int) -> Tensor:
        """Time of the open segment's first token, (B,) int64."""
        return self.position - self.phase(segment_length)


def by_row(chosen: Tensor, values: Tensor, others: Tensor) -> Tensor:
    """Values (B, ...) of the rows that are ``chosen`` (B,), else the others."""
    return th.where(chosen.view(-1, *[1] * (values.dim() - 1)), values, others)


def fresh_memory(initial_slots: Tensor, batch: int) -> Memory:
    """
    Make memory for episodes that are about to begin.

    :param initial_slots: Initial slot vectors, (N, M, D).
    :param batch: Number of rows B.
    :return: Memory of B rows; the slots are one tensor that all rows share.
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
    :return: Memory of B rows.
    """
    starts = episode_starts.bool()
    return Memory(
        slots=th.where(starts[:, None, None, None], initial_slots, memory.slots),
        anchors=memory.anchors.masked_fill(starts[:, None], EMPTY),
        position=memory.position.masked_fill(starts, 0),
    )


def least_recently_written(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """
    Choose the slot to write next: the first empty one if there is any, else the one with the smallest anchor.

    This is the choice of the paper's LRU (least recently used) update.

    :param anchors: (B, M) int64.
    :return: Slot index (B,) int64, and whether that slot is empty (B,) bool.
    """
    slot = anchors.argmin(dim=1)
    return slot, anchors.gather(1, slot[:, None]).squeeze(1) == EMPTY


def write_slot(memory: Memory, rows: Tensor, slot: Tensor, content: Tensor, time: Tensor, *, inplace: bool = False) -> Memory:
    """
    Overwrite one slot, the same in all layers, of some rows: the last step of the paper's LRU update.

    :param memory: Memory of B rows, left as it is unless ``inplace``.
    :param rows: Rows to write, (b,) int64.
    :param slot: Slot of each of these rows, (b,) int64.
    :param content: New slot vectors, (b, N, D).
    :param time: Anchor of the written slots, (b,) int64.
    :param inplace: Whether to write into the tensors of ``memory``.
    :return: Memory of B rows, at the same position.
    """
    put = Tensor.index_put_ if inplace else Tensor.index_put
    layers = th.arange(memory.slots.shape[1], device=rows.device)
    slots = put(memory.slots, (rows[:, None], layers, slot[:, None]), content)
    return memory._replace(slots=slots, anchors=put(memory.anchors, (rows, slot), time))

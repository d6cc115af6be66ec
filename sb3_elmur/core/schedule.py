"""
When the segments of chains read and write: which slot each of them writes, and how old slots are then.

None of it depends on what slots hold, so it is known for a whole chain before its first token is computed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_elmur.core.memory import EMPTY, Memory


class Write(NamedTuple):
    """
    The write at the end of one segment.

    :param rows: The rows of the segment that write, (b,) int64.
    :param slot: The slot that each of them writes, (b,) int64.
    :param empty: Whether nothing was written to it before, (b,) bool.
    """

    rows: Tensor
    slot: Tensor
    empty: Tensor


class Schedule(NamedTuple):
    """
    S consecutive segments of chains, P pieces in all: the first segments of all chains, then the second ones, and so on.

    :param counts: Chains that have each of the S segments; none has more than the one before.
    :param start: Time of each piece's first token, (P,) int64.
    :param anchors: Of the slots that each piece reads, (P, M) int64.
    :param writes: Of each segment; ``None`` where no row writes.
    :param write_start: Time of the first token of each piece that writes, (W,) int64.
    :param write_anchors: Of the slots that they overwrite, (W,) int64.
    :param after: Anchors after the last segment, of the chains that reach it, (C, M) int64.
    """

    counts: tuple[int, ...]
    start: Tensor
    anchors: Tensor
    writes: tuple[Write | None, ...]
    write_start: Tensor
    write_anchors: Tensor
    after: Tensor

    @property
    def written(self) -> Tensor:
        """Slots that any row has written, or writes in these segments, (M,) bool."""
        written = (self.anchors != EMPTY).any(dim=0)
        slots = [write.slot for write in self.writes if write is not None]
        return written.index_fill(0, th.cat(slots), True) if slots else written


def make_schedule(
    memory: Memory,
    lengths: Tensor,
    counts: Sequence[int],
    segment_length: int,
    choose_slot: Callable[[Tensor], tuple[Tensor, Tensor]],
    write: bool,
) -> Schedule:
    """
    Find out when chains read and write.

    :param memory: Memory before each of C chains.
    :param lengths: Tokens of the P pieces, (P,) int64, perhaps on the CPU.
    :param counts: See :class:`Schedule`. Chains that have a next segment have ``segment_length`` tokens in this one.
    :param segment_length: L.
    :param choose_slot: As :func:`sb3_elmur.core.memory.least_recently_written`.
    :param write: Whether all complete segments write, also the last ones of chains, whose memory no other segment reads. So
        which candidates there are does not depend on what other chains are run beside a chain.
    :return: The schedule.
    """
    start, anchors = memory.segment_start(segment_length), memory.anchors
    starts, before, write_starts, write_anchors = [], [], [], []
    writes: list[Write | None] = []
    end = 0
    for count, n_next in zip(counts, (*counts[1:], 0), strict=True):
        start, anchors = start[:count], anchors[:count]
        starts.append(start)
        before.append(anchors)
        end += count
        rows = th.arange(n_next, device=start.device)
        if write:
            rows = (lengths[end - count : end] == segment_length).nonzero().squeeze(1).to(start.device, non_blocking=True)
        writes.append(None)
        if len(rows) and anchors.shape[1]:
            present = anchors[rows]
            slot, empty = choose_slot(present)
            writes[-1] = Write(rows, slot, empty)
            write_starts.append(start[rows])
            write_anchors.append(present.gather(1, slot[:, None]).squeeze(1))
            anchors = anchors.index_put((rows, slot), start[rows] + segment_length - 1)
        start = start + segment_length
    none = start[:0]
    return Schedule(
        tuple(counts), th.cat(starts), th.cat(before), tuple(writes),
        th.cat(write_starts or [none]), th.cat(write_anchors or [none]), anchors,
    )  # fmt: skip

"""
Running sequences longer than a segment, all of a batch in parallel, one segment after another.

:func:`unroll` takes sequences of equal length that begin anywhere in a segment and may contain episode starts. It cuts them
where an episode starts, shifts the pieces so that each begins at its segment's start (the open segment's earlier tokens come
first), and lets all pieces :func:`advance` together. :func:`replay` takes sequences of any lengths that begin with a segment.
"""

from collections.abc import Callable

import torch as th
from torch import Tensor
from torch.nn import functional as F

from sb3_elmur.core.memory import Memory, reset_memory

RunSegment = Callable[..., tuple[Tensor, Memory]]  # Elmur.segment


def unroll(
    run_segment: RunSegment,
    segment_length: int,
    initial_slots: Tensor,
    x: Tensor,
    memory: Memory,
    tokens: Tensor,
    episode_starts: Tensor,
    *,
    detach_memory: bool,
    need_state: bool,
) -> tuple[Tensor, Memory, Tensor]:
    """
    See :meth:`sb3_elmur.core.elmur.Elmur.unroll`, which passes the first three arguments.

    :param run_segment: ``run_segment(x, memory, lengths, write=...)`` as :meth:`sb3_elmur.core.elmur.Elmur.segment`.
    :param segment_length: L.
    :param initial_slots: Slots at an episode's start, (N, M, D).
    """
    starts = episode_starts.bool()
    batch, time = starts.shape
    memory = reset_memory(memory, initial_slots, starts[:, 0])
    if not starts[:, 1:].any():
        lengths = th.full_like(memory.position, time)
        return advance(run_segment, segment_length, x, memory, tokens, lengths, detach_memory, need_state)

    cuts = starts.clone()
    cuts[:, 0] = True
    begin = cuts.flatten().nonzero().squeeze(1)  # (P,) where each piece begins in the flattened batch
    lengths = begin.diff(append=begin.new_tensor([batch * time]))
    row = begin // time
    inner = begin % time != 0
    own = reset_memory(memory.rows(row), initial_slots, inner)
    index = begin[:, None] + th.arange(int(lengths.max()), device=x.device)
    pieces = x.flatten(0, 1)[index.clamp(max=batch * time - 1)]
    y, own, tokens = advance(run_segment, segment_length, pieces, own, tokens[row], lengths, detach_memory, need_state)

    piece = cuts.flatten().cumsum(0) - 1  # (B T,) the piece of each token
    y = y[piece, th.arange(batch * time, device=x.device) - begin[piece]].unflatten(0, (batch, time))
    last = piece.view(batch, time)[:, -1]
    return y, own.rows(last), tokens[last]


def advance(
    run_segment: RunSegment,
    segment_length: int,
    x: Tensor,
    memory: Memory,
    tokens: Tensor,
    lengths: Tensor,
    detach_memory: bool,
    need_state: bool,
) -> tuple[Tensor, Memory, Tensor]:
    """
    Run sequences without inner episode starts; arguments as in :func:`unroll`.

    :param x: (P, T, D), of which row p has ``lengths[p]`` real tokens.
    :return: Outputs (P, T, D), memory and open tokens after each row's last real token.
    """
    phase = memory.position % segment_length
    total = phase + lengths  # counted from the first segment's start
    index = phase[:, None] + th.arange(x.shape[1], device=x.device)
    n_segments = -(-(int(phase.max()) + x.shape[1]) // segment_length)
    inputs = F.pad(tokens, (0, 0, 0, n_segments * segment_length - tokens.shape[1]))
    inputs = inputs.scatter(1, index[..., None].expand_as(x), x)

    outputs: list[Tensor] = []
    remaining = total
    for segment in inputs.split(segment_length, dim=1):
        present = remaining.clamp(0, segment_length)
        longest = int(present.max())
        last = int(remaining.max()) <= segment_length
        if detach_memory and outputs:
            memory = memory._replace(slots=memory.slots.detach())
        y, memory = run_segment(segment[:, :longest], memory, present, write=need_state or not last)
        outputs.append(y)
        remaining = remaining - segment_length
        if last:
            break
    y = th.cat(outputs, dim=1)
    y = y.gather(1, index.clamp(max=y.shape[1] - 1)[..., None].expand(-1, -1, y.shape[2]))

    open_phase = total % segment_length
    slot = th.arange(segment_length - 1, device=x.device)
    source = ((total - open_phase)[:, None] + slot).clamp(max=inputs.shape[1] - 1)
    tokens = inputs.gather(1, source[..., None].expand(-1, -1, inputs.shape[2]))
    return y, memory, tokens.masked_fill((slot >= open_phase[:, None])[..., None], 0.0)


def replay(
    run_segment: RunSegment, segment_length: int, x: Tensor, memory: Memory, lengths: Tensor, need_memory: bool = False
) -> tuple[Tensor, Memory]:
    """
    Run chains of consecutive segments, without any padding between them.

    :param run_segment: As in :func:`unroll`.
    :param segment_length: L.
    :param x: Tokens of C chains, (R, D), in segment-major order: the first segments of all chains, then the second segments
        of those that have one, and so on.
    :param memory: Memory before each chain, C rows, at a segment's start.
    :param lengths: Tokens of each chain, (C,) int64, ordered so that their numbers of segments do not increase. They decide
        shapes, so they are on the CPU, where nothing waits for a GPU.
    :param need_memory: Whether the returned memory is used; otherwise the last write is saved.
    :return: Outputs, (R, D), in the order of ``x``, and memory after the last segment, of the chains that reach it.
    """
    outputs, begin, remaining = [], 0, lengths
    while len(remaining):
        memory = memory.rows(slice(len(remaining)))
        present = remaining.clamp(max=segment_length)
        longest, count = int(present.max()), int(present.sum())
        segment = x[begin : begin + count]
        full = count == len(present) * longest
        if not full:
            real = (th.arange(longest) < present[:, None]).flatten().nonzero().squeeze(1).to(x.device, non_blocking=True)
            segment = x.new_zeros(len(present) * longest, x.shape[1]).index_copy(0, real, segment)
        segment = segment.unflatten(0, (len(present), longest))
        remaining = remaining - segment_length
        remaining = remaining[remaining > 0]
        y, memory = run_segment(segment, memory, present, write=need_memory or len(remaining) > 0)
        y = y.flatten(0, 1)
        outputs.append(y if full else y.index_select(0, real))
        begin += count
    return th.cat(outputs) if outputs else x, memory

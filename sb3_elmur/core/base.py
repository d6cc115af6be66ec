"""
What all memory cores share: a core says how to run one segment and one step, and can then run whatever training needs.

:meth:`MemoryCore.unroll` takes sequences of equal length that begin anywhere in a segment and may contain episode starts. It
cuts them where an episode starts, shifts the pieces so that each begins at its segment's start (the open segment's earlier
tokens come first), and runs all pieces together. :meth:`MemoryCore.replay` takes chains, sequences of any lengths that begin
with a segment. Their tokens come in *segment-major* order, here three chains of 5, 4 and 2 steps with L = 2::

    chain 0:  a0 a1 | a2 a3 | a4                 the order of the rows:
    chain 1:  b0 b1 | b2 b3                      a0 a1 b0 b1 c0 c1 | a2 a3 b2 b3 | a4
    chain 2:  c0 c1                              segment 0           segment 1     segment 2
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.feedforward import Pool, RouterLoad
from sb3_elmur.core.memory import Memory, fresh_memory, reset_memory
from sb3_elmur.core.states import CoreState


class MemoryCore(nn.Module, ABC):
    """
    A sequence model whose memory changes once per segment of L steps, at its end.

    :meth:`segment` and :meth:`step` are two ways to run the same thing; the base class builds the others from them. For a
    memory of your own, :class:`sb3_elmur.core.recurrent.RecurrentCore` is a shorter contract.

    :param config: Its hyper-parameters.
    """

    aux_loss: Tensor | None = None  # load-balancing loss of the last training pass, before its coefficient
    initial_slots: Tensor  # slots at an episode's start, (N, M, D)

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.check(config)
        self.config = config

    @classmethod
    def check(cls, config: ElmurConfig) -> None:
        """
        Refuse hyper-parameters that this core cannot have, each of which is in its range.

        :param config: The hyper-parameters.
        :raises ValueError: If they do not fit each other.
        """

    @property
    def segment_length(self) -> int:
        """Steps per segment (L)."""
        return self.config.segment_length

    def make_final_norm(self) -> nn.Module:
        """What normalises the outputs of the last layer, where the core leaves that to others; by default nothing."""
        return nn.Identity()

    def initial_memory(self, batch: int) -> Memory:
        """Memory of ``batch`` episodes that are about to begin."""
        return fresh_memory(self.initial_slots, batch)

    def initial_state(self, batch: int) -> CoreState:
        """State of ``batch`` episodes that are about to begin, for :meth:`step`."""
        no_tokens = self.initial_slots.new_zeros(batch, 0, self.config.d_model)
        return self.open_segment(no_tokens, self.initial_memory(batch))

    @abstractmethod
    def segment(
        self, x: Tensor, memory: Memory, lengths: Tensor, *, write: bool = True, load: RouterLoad | None = None
    ) -> tuple[Tensor, Memory]:
        """
        Run one segment from its start, all tokens in parallel.

        :param x: Tokens, (B, T, D) with T at most L.
        :param memory: Memory before the segment. A ``position`` inside a segment counts as that segment's start.
        :param lengths: Real tokens per row, (B,) int64, at most T. Rows with L of them write memory,
            rows with none stay as they are. On the CPU, they need not be waited for.
        :param write: False saves the write where the memory after the segment is not used.
        :param load: What :meth:`begin_pass` returned.
        :return: Outputs (B, T, D), and memory after the segment.
        """

    def segments(
        self,
        x: Tensor,
        memory: Memory,
        lengths: Tensor,
        counts: Sequence[int],
        *,
        write: bool = True,
        load: RouterLoad | None = None,
    ) -> tuple[Tensor, Memory]:
        """
        Run chains of consecutive segments, with gradients through their memory.

        :param x: Tokens of P pieces, (P, T, D): the first segments of all C chains, then the second segments of those that
            have one, and so on.
        :param memory: Memory before each chain, C rows.
        :param lengths: Real tokens of each piece, (P,) int64; L of them wherever the chain has a next segment.
        :param counts: Chains that have a first segment, a second one, and so on; none more than the one before.
        :param write: False saves the last write where the memory after the last segment is not used.
        :param load: What :meth:`begin_pass` returned.
        :return: Outputs (P, T, D), and memory after the last segment, of the chains that reach it.
        """
        outputs, left = [], len(counts)
        for part, present in zip(x.split(list(counts)), lengths.split(list(counts)), strict=True):
            left -= 1
            longest = int(present.max())
            memory = memory.rows(slice(len(part)))
            y, memory = self.segment(part[:, :longest], memory, present, write=write or left > 0, load=load)
            outputs.append(F.pad(y, (0, 0, 0, x.shape[1] - longest)))
        return th.cat(outputs), memory

    @abstractmethod
    def open_segment(self, x: Tensor, memory: Memory) -> CoreState:
        """
        Make a state for stepping on from within a segment, in one parallel pass.

        :param x: Inputs of the open segment's earlier tokens, (B, T, D), T less than L; row b uses the first
            ``memory.position[b] % L`` of them.
        :param memory: Memory at this point of time, equal to that at the segment's start.
        :return: State of B rows.
        """

    @abstractmethod
    def step(self, x: Tensor, state: Any, episode_starts: Tensor, *, inplace: bool = False) -> tuple[Tensor, CoreState]:
        """
        Run one token per row, whatever the phases of the rows. Nothing that earlier steps computed is computed again.

        :param x: Tokens, (B, D).
        :param state: State before the step, left as it is unless ``inplace``. It becomes stale when the weights change:
            rebuild it with :meth:`open_segment`.
        :param episode_starts: (B,), true for rows whose episode begins with this token.
        :param inplace: Whether the new state may be written into the tensors of ``state``, without copies or gradients.
        :return: Outputs (B, D), and the state after the step.
        """

    def begin_pass(self) -> RouterLoad | None:
        """
        Begin a pass over several segments.

        :return: What all its calls of :meth:`segment` are handed, and :meth:`end_pass` in the end.
        """
        return None

    def end_pass(self, y: Tensor, load: RouterLoad | None, pool: Pool | None = None) -> Tensor:
        """
        End a pass over several segments.

        :param y: Its outputs.
        :param load: What :meth:`begin_pass` returned.
        :param pool: See :meth:`replay`.
        :return: ``y``, perhaps with a loss attached to its gradient.
        """
        return y

    def unroll(
        self, x: Tensor, memory: Memory, tokens: Tensor, episode_starts: Tensor, *, detach_memory: bool, need_state: bool
    ) -> tuple[Tensor, Memory, Tensor]:
        """
        Run sequences that begin at any phase of a segment and may contain episode starts.

        :param x: Tokens, (B, T, D).
        :param memory: Memory before the first token.
        :param tokens: Inputs of the open segment's earlier tokens, (B, L - 1, D); row b uses the first
            ``memory.position[b] % L`` of them.
        :param episode_starts: (B, T), true where an episode begins.
        :param detach_memory: Stop gradients at segment borders (the paper's setting).
        :param need_state: Whether the state after the last token is used; otherwise a last write is saved.
        :return: Outputs (B, T, D), memory and open tokens after the last token.
        """
        starts = episode_starts.bool()
        batch, time = starts.shape
        load = self.begin_pass()
        memory = reset_memory(memory, self.initial_slots, starts[:, 0])
        if not starts[:, 1:].any():
            lengths = th.full_like(memory.position, time)
            y, memory, tokens = self._run_pieces(x, memory, tokens, lengths, detach_memory, need_state, load)
            return self.end_pass(y, load), memory, tokens

        cuts = starts.clone()
        cuts[:, 0] = True
        begin = cuts.flatten().nonzero().squeeze(1)  # (P,) where each piece begins in the flattened batch
        lengths = begin.diff(append=begin.new_tensor([batch * time]))
        row = begin // time  # (P,) the sequence that each piece is of
        own = reset_memory(memory.rows(row), self.initial_slots, begin % time != 0)
        index = begin[:, None] + th.arange(int(lengths.max()), device=x.device)  # (P, T')
        pieces = x.flatten(0, 1)[index.clamp(max=batch * time - 1)]  # (P, T', D)
        beyond = index >= (begin + lengths)[:, None]  # tokens of other pieces, which may be NaN
        pieces = pieces.masked_fill(beyond[..., None], 0.0)
        y, own, tokens = self._run_pieces(pieces, own, tokens[row], lengths, detach_memory, need_state, load)

        piece = cuts.flatten().cumsum(0) - 1  # (B T,) the piece of each token
        y = y[piece, th.arange(batch * time, device=x.device) - begin[piece]].unflatten(0, (batch, time))
        last = piece.view(batch, time)[:, -1]
        return self.end_pass(y, load), own.rows(last), tokens[last]

    def replay(
        self, x: Tensor, memory: Memory, lengths: Tensor, *, need_memory: bool = False, pool: Pool | None = None
    ) -> tuple[Tensor, Memory]:
        """
        Run chains of consecutive segments, with gradients through their memory and without padding between them.

        :param x: Tokens of C chains, (R, D), in segment-major order: the first segments of all chains, then the second
            segments of those that have one, and so on.
        :param memory: Memory before each chain, C rows, at a segment's start.
        :param lengths: Tokens of each chain, (C,) int64, ordered so that their numbers of segments do not increase. They
            decide shapes, so they are on the CPU, where nothing waits for a GPU.
        :param need_memory: Whether the returned memory is used; otherwise the last write is saved.
        :param pool: Adds up router statistics over processes that train together and make the same passes, as
            :meth:`sb3_elmur.distributed.Group.pool` does. ``None`` for a process of its own.
        :return: Outputs, (R, D), in the order of ``x``, and memory after the last segment, of the chains that reach it.
        """
        load, length = self.begin_pass(), self.segment_length
        if not len(lengths):
            return self.end_pass(x, load, pool), memory  # other processes wait for this one's statistics
        begin = th.arange(0, int(lengths.max()), length)[:, None]  # (S, 1)
        present = (lengths - begin).clamp(0, length)  # (S, C)
        counts = (present > 0).sum(1).tolist()
        present = present[present > 0]  # (P,)
        longest = int(present.max())
        full = len(x) == len(present) * longest
        if not full:
            real = (th.arange(longest) < present[:, None]).flatten().nonzero().squeeze(1).to(x.device, non_blocking=True)
            x = x.new_zeros(len(present) * longest, x.shape[1]).index_copy(0, real, x)
        y, memory = self.segments(x.unflatten(0, (-1, longest)), memory, present, counts, write=need_memory, load=load)
        y = y.flatten(0, 1)
        return self.end_pass(y if full else y.index_select(0, real), load, pool), memory

    def reopen(self, x: Tensor, memory: Memory, lengths: Tensor) -> CoreState:
        """
        Make a state for :meth:`step` after the beginnings of chains, all in one batched pass.

        :param x: Tokens, (B, T, D), of which row b has ``lengths[b]``.
        :param memory: Memory before the tokens, at a segment's start.
        :param lengths: (B,) int64.
        :return: State of B rows.
        """
        tokens = x.new_zeros(len(x), self.segment_length - 1, x.shape[2])
        if x.shape[1]:
            _, memory, tokens = self._run_pieces(x, memory, tokens, lengths, detach_memory=True, need_state=True)
        return self.open_segment(tokens, memory)

    def _run_pieces(
        self,
        x: Tensor,
        memory: Memory,
        tokens: Tensor,
        lengths: Tensor,
        detach_memory: bool,
        need_state: bool,
        load: RouterLoad | None = None,
    ) -> tuple[Tensor, Memory, Tensor]:
        """
        Run sequences without inner episode starts; arguments as :meth:`unroll`.

        :param x: (P, T, D), of which row p has ``lengths[p]`` real tokens.
        :return: Outputs (P, T, D), memory and open tokens after each row's last real token.
        """
        length = self.segment_length
        phase = memory.phase(length)
        total = phase + lengths  # counted from the first segment's start
        index = phase[:, None] + th.arange(x.shape[1], device=x.device)  # (P, T) where each token goes
        n_segments = -(-(int(phase.max()) + x.shape[1]) // length)
        inputs = F.pad(tokens, (0, 0, 0, n_segments * length - tokens.shape[1]))
        inputs = inputs.scatter(1, index[..., None].expand_as(x), x)  # (P, n_segments L, D)

        outputs: list[Tensor] = []
        remaining = total
        for segment in inputs.split(length, dim=1):
            present = remaining.clamp(0, length)
            longest = int(present.max())
            last = int(remaining.max()) <= length
            if detach_memory and outputs:
                memory = memory._replace(slots=memory.slots.detach())
            y, memory = self.segment(segment[:, :longest], memory, present, write=need_state or not last, load=load)
            outputs.append(y)
            remaining = remaining - length
            if last:
                break
        y = th.cat(outputs, dim=1)
        y = y.gather(1, index.clamp(max=y.shape[1] - 1)[..., None].expand(-1, -1, y.shape[2]))  # (P, T, D)

        open_phase = total % length
        place = th.arange(length - 1, device=x.device)
        source = ((total - open_phase)[:, None] + place).clamp(max=inputs.shape[1] - 1)  # (P, L - 1)
        tokens = inputs.gather(1, source[..., None].expand(-1, -1, inputs.shape[2]))
        return y, memory, tokens.masked_fill((place >= open_phase[:, None])[..., None], 0.0)

"""
A memory of your own: :class:`RecurrentCore` makes all that training needs of an initial memory and one step.

It keeps the state, a tuple of tensors, in a :class:`sb3_elmur.core.memory.Memory` like ELMUR's, so that policies, buffers and
trainers cannot tell them apart: the slots are the numbers of the state, written at the end of every segment, which is so the
unit in which state is stored and gradients are cut. It has no other meaning: outputs do not depend on the segment length.
"""

from abc import abstractmethod
from math import prod

import torch as th
from torch import Tensor
from torch.nn import functional as F

from sb3_elmur.core.base import MemoryCore
from sb3_elmur.core.feedforward import RouterLoad
from sb3_elmur.core.memory import Memory, by_row, reset_memory
from sb3_elmur.core.states import CellState

State = tuple[Tensor, ...]


class RecurrentCore(MemoryCore):
    """
    A recurrent memory: write :meth:`initial` and :meth:`advance`, and :meth:`scan` if many steps are faster than one by one.

    All that an episode remembers must be in the state, for every row by itself. Tokens and outputs have the width
    ``config.d_model`` (D). :func:`sb3_elmur.testing.check_core` checks a class of yours.

    :param config: Its hyper-parameters; further arguments of your constructor come from ``core_kwargs``.
    """

    @abstractmethod
    def initial(self, batch: int) -> State:
        """
        What episodes remember when they begin; it takes no gradient.

        :param batch: Number of episodes B.
        :return: Any number of floating tensors of any shapes (B, ...), whose rows are equal.
        """

    @abstractmethod
    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """
        Run one step.

        :param x: One token per row, (B, D).
        :param state: Before the step, left as it is.
        :return: Outputs (B, D), and the state after the step.
        """

    def scan(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """
        Run several steps, with the same numbers as one by one.

        :param x: Tokens, (B, T, D).
        :param state: Before the first, left as it is.
        :return: Outputs (B, T, D), and the state after the last.
        """
        outputs = []
        for token in x.unbind(1):
            y, state = self.advance(token, state)
            outputs.append(y)
        return th.stack(outputs, dim=1), state

    @property
    def initial_slots(self) -> Tensor:  # type: ignore[override]
        """The initial state of one episode as slots, (1, M, D)."""
        return self._as_slots(self.initial(1))[0].detach()

    def segment(
        self, x: Tensor, memory: Memory, lengths: Tensor, *, write: bool = True, load: RouterLoad | None = None
    ) -> tuple[Tensor, Memory]:
        """See :meth:`sb3_elmur.core.base.MemoryCore.segment`; there are no routers."""
        y, state = self.scan(x, self._as_state(memory.slots))
        lengths = lengths.to(x.device, non_blocking=True)
        position = th.where(lengths > 0, memory.segment_start(self.segment_length) + lengths, memory.position)
        if not write or x.shape[1] < self.segment_length:
            return y, memory._replace(position=position)
        return y, self._write(memory, state, position, lengths == self.segment_length)

    def open_segment(self, x: Tensor, memory: Memory) -> CellState:
        """See :meth:`sb3_elmur.core.base.MemoryCore.open_segment`; the tokens are run one by one."""
        phase = memory.phase(self.segment_length)
        state = self._as_state(memory.slots)
        for t, token in enumerate(x[:, : int(phase.max())].unbind(1)):
            _, after = self.advance(token, state)
            state = _state_by_row(phase > t, after, state)
        return CellState(memory, state)

    def step(self, x: Tensor, state: CellState, episode_starts: Tensor, *, inplace: bool = False) -> tuple[Tensor, CellState]:
        """See :meth:`sb3_elmur.core.base.MemoryCore.step`; nothing is written in place, since everything is new."""
        memory, hidden = state
        starts = episode_starts.bool()
        if _any(starts):
            memory = reset_memory(memory, self.initial_slots, starts)
            hidden = _state_by_row(starts, self.initial(x.shape[0]), hidden)
        y, hidden = self.advance(x, hidden)
        position = memory.position + 1
        complete = position % self.segment_length == 0
        if _any(complete):
            return y, CellState(self._write(memory, hidden, position, complete), hidden)
        return y, CellState(memory._replace(position=position), hidden)

    def _write(self, memory: Memory, state: State, position: Tensor, complete: Tensor) -> Memory:
        """Memory at ``position``, with the state of the rows whose segment is ``complete`` (B,)."""
        slots = th.where(complete[:, None, None, None], self._as_slots(state).to(memory.slots.dtype), memory.slots)
        return Memory(slots, th.where(complete[:, None], position[:, None] - 1, memory.anchors), position)

    def _as_slots(self, state: State) -> Tensor:
        """The numbers of a state in rows of the width of tokens, padded by zeros, (B, 1, M, D)."""
        flat = th.cat([part.flatten(1) for part in state], dim=1)
        width = self.config.d_model
        return F.pad(flat, (0, -flat.shape[1] % width)).unflatten(1, (1, -1, width))

    def _as_state(self, slots: Tensor) -> State:
        """Undo :meth:`_as_slots`."""
        shapes = [part.shape[1:] for part in self.initial(1)]
        sizes = [prod(shape) for shape in shapes]
        parts = slots.flatten(1)[:, : sum(sizes)].split(sizes, dim=1)
        return tuple(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True))


def _any(rows: Tensor) -> bool:
    """Whether one of the rows (B,) needs work that others do not; a graph has no branches and always does it."""
    return th.compiler.is_compiling() or bool(rows.any())


def _state_by_row(chosen: Tensor, state: State, other: State) -> State:
    """The rows of one state where ``chosen`` (B,), else those of the other."""
    return tuple(by_row(chosen, new, old) for new, old in zip(state, other, strict=True))

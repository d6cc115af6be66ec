"""
Baselines with another memory than ELMUR's behind the same interface: a GRU or an LSTM.

Their state is a :class:`sb3_elmur.core.memory.Memory` like ELMUR's, so that policies, buffers and trainers cannot tell them
apart: the slots of a layer are its hidden vectors, all written at the end of every segment, which is so the unit in which
state is stored and gradients are cut. It has no other meaning: outputs do not depend on the segment length.
"""

import torch as th
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from sb3_elmur.core.base import MemoryCore
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.feedforward import RouterLoad
from sb3_elmur.core.memory import Memory, reset_memory
from sb3_elmur.core.states import CellState


class RecurrentCell(MemoryCore):
    """
    A GRU, whose layers have one slot, or an LSTM, whose layers have two: hidden state and cell state.

    :param config: Its hyper-parameters.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__(config)
        cell, n_slots = {"gru": (nn.GRU, 1), "lstm": (nn.LSTM, 2)}[config.core]
        self.cell = cell(config.d_model, config.d_model, config.n_layers, batch_first=True, dropout=config.dropout)
        self.register_buffer("initial_slots", th.zeros(config.n_layers, n_slots, config.d_model), persistent=False)

    def segment(
        self, x: Tensor, memory: Memory, lengths: Tensor, *, write: bool = True, load: RouterLoad | None = None
    ) -> tuple[Tensor, Memory]:
        """See :meth:`sb3_elmur.core.base.MemoryCore.segment`; there are no routers."""
        y, hidden = self._run(x, memory.slots)
        lengths = lengths.to(x.device, non_blocking=True)
        position = th.where(lengths > 0, memory.segment_start(self.segment_length) + lengths, memory.position)
        return y, self._write(memory, hidden, position, lengths == self.segment_length)

    def open_segment(self, x: Tensor, memory: Memory) -> CellState:
        """See :meth:`sb3_elmur.core.base.MemoryCore.open_segment`."""
        lengths = memory.phase(self.segment_length)
        if not x.shape[1]:
            return CellState(memory, memory.slots)
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        _, hidden = self._run(packed, memory.slots)
        return CellState(memory, th.where((lengths > 0)[:, None, None, None], hidden, memory.slots))

    def step(self, x: Tensor, state: CellState, episode_starts: Tensor, *, inplace: bool = False) -> tuple[Tensor, CellState]:
        """See :meth:`sb3_elmur.core.base.MemoryCore.step`; nothing is written in place, since everything is new."""
        starts = episode_starts.bool()
        memory = reset_memory(state.memory, self.initial_slots, starts)
        y, hidden = self._run(x[:, None], state.hidden.masked_fill(starts[:, None, None, None], 0.0))
        position = memory.position + 1
        return y[:, 0], CellState(self._write(memory, hidden, position, position % self.segment_length == 0), hidden)

    def _run(self, x: Tensor | PackedSequence, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the last layer for all tokens, and the hidden vectors of all layers after them, (B, N, M, D)."""
        before = hidden.permute(2, 1, 0, 3).contiguous().unbind()  # each (N, B, D)
        y, after = self.cell(x, before if len(before) > 1 else before[0])
        return y, th.stack(after if len(before) > 1 else (after,), dim=2).transpose(0, 1)

    @staticmethod
    def _write(memory: Memory, hidden: Tensor, position: Tensor, complete: Tensor) -> Memory:
        """Memory at ``position``, with the hidden vectors of the rows whose segment is ``complete`` (B,)."""
        slots = th.where(complete[:, None, None, None], hidden, memory.slots)
        return Memory(slots, th.where(complete[:, None], position[:, None] - 1, memory.anchors), position)

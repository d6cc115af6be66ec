"""Baselines with another memory than ELMUR's behind the same interface: PyTorch's GRU and LSTM."""

from typing import ClassVar

from torch import Tensor, nn

from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.recurrent import RecurrentCore, State


class GRU(RecurrentCore):
    """
    PyTorch's GRU; its state is the hidden vectors of its layers, (B, N, D).

    :param config: Its hyper-parameters, of which ``n_layers``, ``d_model`` and ``dropout`` (between its layers) count.
    """

    module: ClassVar[type[nn.GRU] | type[nn.LSTM]] = nn.GRU
    n_parts: ClassVar[int] = 1  # tensors of the state

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__(config)
        self.cell = self.module(config.d_model, config.d_model, config.n_layers, batch_first=True, dropout=config.dropout)

    def initial(self, batch: int) -> State:
        """See :meth:`sb3_elmur.core.recurrent.RecurrentCore.initial`: zeros."""
        zeros = next(self.cell.parameters()).new_zeros(batch, self.config.n_layers, self.config.d_model)
        return (zeros,) * self.n_parts

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`sb3_elmur.core.recurrent.RecurrentCore.advance`."""
        y, state = self.scan(x[:, None], state)
        return y[:, 0], state

    def scan(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`sb3_elmur.core.recurrent.RecurrentCore.scan`."""
        before = tuple(part.transpose(0, 1).contiguous() for part in state)  # each (N, B, D)
        y, after = self.cell(x, before if len(before) > 1 else before[0])
        return y, tuple(part.transpose(0, 1) for part in (after if len(before) > 1 else (after,)))


class LSTM(GRU):
    """
    PyTorch's LSTM; its state is the hidden and the cell vectors of its layers, each (B, N, D).

    :param config: As the GRU's.
    """

    module = nn.LSTM
    n_parts = 2

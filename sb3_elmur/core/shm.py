"""Stable Hadamard Memory (arXiv 2410.10132): a matrix that is calibrated, element by element, before it is written to."""

import torch as th
from torch import Tensor, nn

from sb3_elmur.core.arguments import check_count
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.linear_scan import linear_scan
from sb3_elmur.core.recurrent import State
from sb3_elmur.core.stacked import RecurrentLayer, StackedCore

_ROWS = 128  # of the table of theta
_DRAWS = 1024  # steps after which the drawn rows come again


class SHM(StackedCore):
    """
    Layers of Stable Hadamard Memory; the state of each is its matrix, (B, H, H), and its step, (B, 1).

    :param config: Its hyper-parameters, of which ``n_layers`` and ``d_model`` count.
    :param matrix_size: Rows and columns of the matrix, H.
    """

    def __init__(self, config: ElmurConfig, matrix_size: int = 32) -> None:
        check_count("matrix_size", matrix_size, 1)
        super().__init__(config, (SHMLayer(config.d_model, matrix_size) for _ in range(config.n_layers)))


class SHMLayer(RecurrentLayer):
    """
    One memory matrix, which is calibrated and written to at every step.

    ::

        M_t = M_{t-1} * C_t + U_t,   C_t = 1 + tanh(theta_t v_c(x_t)^T),   U_t = eta(x_t) v(x_t) k(x_t)^T,   h_t = M_t q(x_t)

    Keys and queries are made positive and sum to 1, inputs are normalised, and a linear map of the input is added to what is
    read, as in the authors' experiments. The paper draws theta_t from the rows of a trained table, anew in every pass. Here an
    episode's step says which row it is, by draws that are made once and saved: so an update sees the calibrations with which
    its actions were taken, and an episode that is run again gives the same outputs.

    :param d_model: Width D.
    :param matrix_size: H.
    """

    draws: Tensor

    def __init__(self, d_model: int, matrix_size: int) -> None:
        super().__init__()
        self.size = matrix_size
        self.norm = nn.LayerNorm(d_model)
        self.maps = nn.Linear(d_model, 4 * matrix_size + 1, bias=False)  # k, q, v, v_c and eta
        self.shortcut = nn.Linear(d_model, matrix_size)
        self.out = nn.Linear(matrix_size, d_model)
        self.theta = nn.Parameter(nn.init.xavier_uniform_(th.empty(_ROWS, matrix_size)))
        self.register_buffer("draws", th.randint(_ROWS, (_DRAWS,)))

    def initial(self, batch: int) -> State:
        """See :meth:`sb3_elmur.core.recurrent.RecurrentCore.initial`: zeros."""
        return self.theta.new_zeros(batch, self.size, self.size), self.theta.new_zeros(batch, 1)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`sb3_elmur.core.stacked.RecurrentLayer.forward`."""
        matrix, step = state
        steps = x.shape[1]
        x = self.norm(x)
        key, query, value, v_c, eta = self.maps(x).split((*[self.size] * 4, 1), dim=-1)
        times = step.long() + th.arange(steps, device=x.device)  # (B, T)
        theta = self.theta[self.draws[times % _DRAWS]]  # (B, T, H)
        calibration = 1 + (theta[..., None] * v_c[..., None, :]).tanh()  # (B, T, H, H)
        update = (eta.sigmoid() * value)[..., None] * _distribution(key)[..., None, :]
        matrices = linear_scan(calibration, update, matrix)
        read = (matrices @ _distribution(query)[..., None]).squeeze(-1)  # (B, T, H)
        return self.out(read + self.shortcut(x)), (matrices[:, -1], (step + steps) % _DRAWS)


def _distribution(x: Tensor) -> Tensor:
    """The positive numbers of the last axis, divided by their sum."""
    x = x.relu()
    return x / (x.sum(dim=-1, keepdim=True) + 1e-5)

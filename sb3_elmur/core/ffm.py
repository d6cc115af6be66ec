"""Fast and Forgetful Memory (arXiv 2310.04128): traces that fade and oscillate at rates which do not depend on the input."""

import math

import torch as th
from torch import Tensor, nn

from sb3_elmur.core.arguments import check_count
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.recurrent import State
from sb3_elmur.core.stacked import RecurrentLayer, StackedCore

_HORIZON = 1024  # t_e: steps after which the slowest trace is at _REST of what it was, and the longest period
_REST = 0.01  # beta
_CHUNK = 64  # steps whose powers of gamma are held at once


class FFM(StackedCore):
    """
    Cells of Fast and Forgetful Memory; the state of each is complex, (B, m, c, 2) with real and imaginary part last.

    :param config: Its hyper-parameters, of which ``n_layers`` and ``d_model`` count.
    :param trace_size: Fading traces m.
    :param context_size: Frequencies c at which each trace oscillates.
    """

    def __init__(self, config: ElmurConfig, trace_size: int = 32, context_size: int = 4) -> None:
        check_count("trace_size", trace_size, 1)
        check_count("context_size", context_size, 1)
        super().__init__(config, (FFMLayer(config.d_model, trace_size, context_size) for _ in range(config.n_layers)))


class FFMLayer(RecurrentLayer):
    """
    One cell, with linear maps l_1 to l_5 (figure 2).

    ::

        S_t = gamma * S_{t-1} + (l_1(x_t) * sigmoid(l_2(x_t))) 1^T,   gamma_jk = exp(-alpha_j - i omega_k)
        z_t = l_5(Re S_t, Im S_t),   g_t = sigmoid(l_3(x_t)),   y_t = LN(z_t) * g_t + l_4(x_t) * (1 - g_t)

    Decay rates alpha begin evenly spaced, from half a trace lost per step to 1 % left after 1,024 steps, and periods from 1 to
    1,024 steps. Rates are stored as logarithms, which keeps them above 0. The paper divides by powers of gamma, which limits
    episodes; here no power has an exponent below 0, so that none can overflow.

    :param d_model: Width D.
    :param trace_size: m.
    :param context_size: c.
    """

    def __init__(self, d_model: int, trace_size: int, context_size: int) -> None:
        super().__init__()
        self.sizes = trace_size, trace_size, d_model, d_model
        self.maps = nn.Linear(d_model, sum(self.sizes))  # l_1 to l_4
        self.mix = nn.Linear(2 * trace_size * context_size, d_model)  # l_5
        self.norm = nn.LayerNorm(d_model, elementwise_affine=False)
        self.log_decay = nn.Parameter(th.linspace(math.log(2), -math.log(_REST) / _HORIZON, trace_size).log())
        self.frequency = nn.Parameter(2 * math.pi / th.linspace(1, _HORIZON, context_size))

    def initial(self, batch: int) -> State:
        """See :meth:`sb3_elmur.core.recurrent.RecurrentCore.initial`: zeros."""
        return (self.mix.weight.new_zeros(batch, len(self.log_decay), len(self.frequency), 2),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`sb3_elmur.core.stacked.RecurrentLayer.forward`."""
        value, gate, out_gate, skip = self.maps(x).split(self.sizes, dim=-1)
        (trace,), traces = state, []
        for chunk in (value * gate.sigmoid()).split(_CHUNK, dim=1):
            traces.append(self._aggregate(chunk, trace))
            trace = traces[-1][:, -1]
        out_gate = out_gate.sigmoid()
        z = self.norm(self.mix(th.cat(traces, dim=1).flatten(2)))
        return z * out_gate + skip * (1 - out_gate), (trace,)

    def _aggregate(self, inputs: Tensor, trace: Tensor) -> Tensor:
        """Traces (B, T, m, c, 2) after each of the inputs (B, T, m)."""
        steps = inputs.shape[1]
        powers = self._powers(steps + 1)  # (m, c, 2, T + 1)
        lag = th.arange(steps, device=inputs.device)
        lag = lag[:, None] - lag  # (T, T), from each step back to each other
        kernel = powers[..., lag.clamp(min=0)].masked_fill(lag < 0, 0)  # (m, c, 2, T, T)
        added = kernel.flatten(1, 3) @ inputs.permute(2, 1, 0)  # (m, c 2 T, B)
        added = added.unflatten(1, (-1, 2, steps)).permute(4, 3, 0, 1, 2)  # (B, T, m, c, 2)
        real, imaginary = powers[..., 1:].permute(3, 0, 1, 2).unbind(-1)  # each (T, m, c)
        before, before_imaginary = trace[:, None].unbind(-1)  # each (B, 1, m, c)
        kept = before * real - before_imaginary * imaginary, before * imaginary + before_imaginary * real
        return added + th.stack(kept, dim=-1)

    def _powers(self, count: int) -> Tensor:
        """Real and imaginary parts of ``gamma ** 0, gamma ** 1, ...``, (m, c, 2, count)."""
        exponent = th.arange(count, device=self.frequency.device)
        size = (-self.log_decay.exp()[:, None] * exponent).exp()[:, None, None]  # (m, 1, 1, count)
        angle = -self.frequency[:, None] * exponent  # (c, count)
        return size * th.stack((angle.cos(), angle.sin()), dim=1)

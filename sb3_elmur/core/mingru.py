"""A minimal GRU (arXiv 2410.01201), whose gates do not look at its state, so that all of them are computed at once."""

from torch import Tensor, nn

from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.feedforward import GELU
from sb3_elmur.core.linear_scan import linear_scan
from sb3_elmur.core.recurrent import State
from sb3_elmur.core.stacked import RecurrentLayer, StackedCore


class MinGRU(StackedCore):
    """
    Layers of minGRU and feed-forward network; its state is the hidden vectors of its layers, each (B, D).

    Gates begin at ``gate_bias``, as ELMUR's do: below 0 they keep what is remembered.

    :param config: Its hyper-parameters, of which ``n_layers``, ``d_model``, ``d_ff`` and ``gate_bias`` count.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__(config, (MinGRULayer(config) for _ in range(config.n_layers)))


class MinGRULayer(RecurrentLayer):
    """
    ``h_t = (1 - z_t) * h_{t-1} + z_t * c_t`` with ``z_t = sigmoid(W_z x_t)`` and ``c_t = W_c x_t`` (section 3.1).

    Around it and the network behind it are residual sums of normalised inputs, as in the paper's experiments.

    :param config: See :class:`MinGRU`.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.norm, self.ffn_norm = nn.LayerNorm(config.d_model), nn.LayerNorm(config.d_model)
        self.gate, self.candidate = nn.Linear(config.d_model, config.d_model), nn.Linear(config.d_model, config.d_model)
        nn.init.constant_(self.gate.bias, config.gate_bias)
        self.ffn = GELU(config.d_model, config.d_ff or 2 * config.d_model)

    def initial(self, batch: int) -> State:
        """See :meth:`sb3_elmur.core.recurrent.RecurrentCore.initial`: zeros."""
        return (self.gate.weight.new_zeros(batch, self.gate.out_features),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`sb3_elmur.core.stacked.RecurrentLayer.forward`."""
        normed = self.norm(x)
        gate = self.gate(normed).sigmoid()
        hidden = linear_scan(1 - gate, gate * self.candidate(normed), state[0])
        x = x + hidden
        return x + self.ffn(self.ffn_norm(x)), (hidden[:, -1],)

"""The Gated Transformer-XL (arXiv 1910.06764): attention to the latest steps, with gates in place of residual sums."""

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.core.arguments import check_count
from sb3_elmur.core.attention import merge_heads, sinusoids, split_heads
from sb3_elmur.core.config import ElmurConfig, check_heads
from sb3_elmur.core.recurrent import State
from sb3_elmur.core.stacked import RecurrentLayer, StackedCore

_GATE_BIAS = 2.0  # b_g, with which a layer begins close to the identity


class GTrXL(StackedCore):
    """
    Layers of a Gated Transformer-XL; the state of each is its latest inputs, (B, W, D), and how many there are, (B, 1).

    Each layer attends to the ``window`` inputs before a step, wherever segments end. Gradients reach these inputs as far as
    ``bptt_segments`` says; the paper stops them at segment borders.

    :param config: Its hyper-parameters, of which ``n_layers``, ``d_model``, ``n_heads`` and ``d_ff`` count.
    :param window: Steps that are remembered, W.
    """

    def __init__(self, config: ElmurConfig, window: int = 64) -> None:
        check_count("window", window, 1)
        super().__init__(config, (GTrXLLayer(config, window) for _ in range(config.n_layers)))

    @classmethod
    def check(cls, config: ElmurConfig) -> None:
        """See :meth:`sb3_elmur.core.base.MemoryCore.check`."""
        check_heads(config)


class GTrXLLayer(RecurrentLayer):
    """
    One layer, whose sublayers take normalised inputs and end with a gate (section "Gated Transformer Architectures").

    ::

        y = gate(x, relu(attention(LN(memory and x)))),   output = gate(y, relu(f(LN(y))))

    :param config: See :class:`GTrXL`.
    :param window: W.
    """

    def __init__(self, config: ElmurConfig, window: int) -> None:
        super().__init__()
        d_model, d_ff = config.d_model, config.d_ff or 2 * config.d_model
        self.window = window
        self.norm, self.ffn_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = WindowAttention(config, window)
        self.ffn = nn.Sequential(nn.Linear(d_model, d_ff), nn.ReLU(), nn.Linear(d_ff, d_model))
        self.gate, self.ffn_gate = GRUGate(d_model), GRUGate(d_model)

    def initial(self, batch: int) -> State:
        """See :meth:`sb3_elmur.core.recurrent.RecurrentCore.initial`: zeros."""
        zeros = self.norm.weight.new_zeros(batch, self.window, len(self.norm.weight))
        return zeros, zeros[:, 0, :1]

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`sb3_elmur.core.stacked.RecurrentLayer.forward`."""
        memory, count = state
        inputs = th.cat((memory, x), dim=1)  # (B, W + T, D)
        y = self.gate(x, self.attention(self.norm(inputs), count).relu())
        output = self.ffn_gate(y, self.ffn(self.ffn_norm(y)).relu())
        return output, (inputs[:, -self.window :], (count + x.shape[1]).clamp(max=self.window))


class GRUGate(nn.Module):
    """
    ``(1 - z) * x + z * h`` with gate z and candidate h of a GRU whose state is x and input y (section "Gating Layers").

    :param d_model: Width D.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.of_y = nn.Linear(d_model, 3 * d_model, bias=False)  # W_r, W_z, W_g
        self.of_x = nn.Linear(d_model, 2 * d_model, bias=False)  # U_r, U_z
        self.of_reset = nn.Linear(d_model, d_model, bias=False)  # U_g
        self.bias = nn.Parameter(th.full((d_model,), _GATE_BIAS))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Combine (..., D) of the stream and (..., D) of a sublayer."""
        y_reset, y_update, y_candidate = self.of_y(y).chunk(3, dim=-1)
        x_reset, x_update = self.of_x(x).chunk(2, dim=-1)
        candidate = (y_candidate + self.of_reset((y_reset + x_reset).sigmoid() * x)).tanh()
        update = (y_update + x_update - self.bias).sigmoid()
        return (1 - update) * x + update * candidate


class WindowAttention(nn.Module):
    """
    Attention of every step to itself and the W before it, with the relative positions of Transformer-XL (arXiv 1901.02860).

    ``score(i, j) = ((q_i + u) k_j + (q_i + w) r_{i-j}) / sqrt(D / H)`` with ``r_d = W_r sinusoid(d)``. Since ``q_i (W_k x_j) =
    (q_i W_k) x_j``, queries and what they read are mapped, not all that is remembered, of which each is in many segments.

    :param config: Width and heads.
    :param window: W.
    """

    sinusoids: Tensor

    def __init__(self, config: ElmurConfig, window: int) -> None:
        super().__init__()
        d_model, self.n_heads, self.window = config.d_model, config.n_heads, window
        self.query, self.key, self.value, self.distance, self.out = (nn.Linear(d_model, d_model, bias=False) for _ in range(5))
        self.content_bias, self.distance_bias = (
            nn.Parameter(th.zeros(self.n_heads, 1, d_model // self.n_heads)) for _ in range(2)
        )
        self.register_buffer("sinusoids", sinusoids(window + 1, d_model), persistent=False)

    def forward(self, inputs: Tensor, count: Tensor) -> Tensor:
        """
        Attend.

        :param inputs: The W before the first step, and those of T steps, (B, W + T, D).
        :param count: How many of the W there are, the latest ones, (B, 1).
        :return: Of the T steps, (B, T, D).
        """
        query = split_heads(self.query(inputs[:, self.window :]), self.n_heads)  # (B, H, T, D / H)
        key, value = (layer.weight.unflatten(0, (self.n_heads, -1)) for layer in (self.key, self.value))  # (H, D / H, D)
        query_of_inputs = (query + self.content_bias) @ key  # (B, H, T, D)
        read = F.scaled_dot_product_attention(
            query_of_inputs.flatten(1, 2)[:, None], inputs[:, None], inputs[:, None],
            attn_mask=self._bias(query, count).flatten(1, 2)[:, None], scale=query.shape[3] ** -0.5,
        )  # fmt: skip
        return self.out(merge_heads(read.squeeze(1).unflatten(1, (self.n_heads, -1)) @ value.mT))

    def _bias(self, query: Tensor, count: Tensor) -> Tensor:
        """Scores by distance, -inf for what is out of reach, (B, H, T, W + T)."""
        r = split_heads(self.distance(self.sinusoids), self.n_heads)  # (H, W + 1, D / H)
        by_distance = (query + self.distance_bias) @ r.mT * query.shape[3] ** -0.5  # (B, H, T, W + 1)
        place = th.arange(self.window + query.shape[2], device=query.device)
        distance = place[self.window :, None] - place  # (T, W + T)
        bias = by_distance.gather(3, distance.clamp(0, self.window).expand(*by_distance.shape[:3], -1))
        reached = (distance >= 0) & (distance <= self.window)
        present = place >= self.window - count  # (B, W + T)
        return bias.masked_fill(~(reached & present[:, None])[:, None], float("-inf"))

"""
The attentions of the ELMUR layer: causal self-attention with relative positions, and cross-attention with a relative bias.

Both run on ``torch.nn.functional.scaled_dot_product_attention`` with an additive bias.
"""

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.config import ElmurConfig


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(..., T, D) to (..., H, T, D / H); heads are contiguous blocks of the width."""
    return x.unflatten(-1, (n_heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """(..., H, T, D / H) to (..., T, D)."""
    return x.transpose(-3, -2).flatten(-2)


def sinusoids(distances: int, d_model: int) -> Tensor:
    """
    Sine and cosine features of the distances 0, 1, ... in steps, (distances, D); frequency k is ``10000^(-2k/D)``.

    :param distances: Number of distances.
    :param d_model: Width D, even.
    """
    frequencies = 10000.0 ** (-th.arange(0, d_model, 2, dtype=th.float64) / d_model)
    angles = th.arange(distances, dtype=th.float64)[:, None] * frequencies
    return th.cat((angles.sin(), angles.cos()), dim=1).to(th.get_default_dtype())


class SelfAttention(nn.Module):
    """
    Causal self-attention within a segment, with Transformer-XL relative positions.

    ``score(i, j) = ((q_i + u) k_j + (q_i + w) r_{i-j}) / sqrt(D / H)`` with ``r_d = W_r sinusoid(d)``; u (``content_bias``)
    and w (``distance_bias``), each (H, D / H), are shared by all layers and passed in.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.distance = nn.Linear(config.d_model, config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens (B, T, D), each (B, T, D)."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        return query, key, value

    def over_segment(
        self, q: Tensor, k: Tensor, v: Tensor, r: Tensor, future: Tensor, biases: tuple[Tensor, Tensor]
    ) -> Tensor:
        """
        All tokens of a segment, or of its first part, attend to themselves and their predecessors.

        :param q: Queries; keys ``k`` and values ``v`` likewise, (B, T, D).
        :param r: Projected distances, (T, D).
        :param future: True above the diagonal, (T, T).
        :param biases: u and w, each (H, D / H).
        :return: (B, T, D).
        """
        n = q.shape[1]
        scores = self._distance_scores(q, r.flip(0), biases[1])  # (B, H, T, T), last axis: distance n-1 ... 0
        # Transformer-XL's shift: row i moves left by n-1-i, so that column j holds distance i-j
        shifted = F.pad(scores, (1, 0)).view(*scores.shape[:2], n + 1, n)[:, :, 1:]
        return self._attend(q, k, v, shifted.masked_fill(future, float("-inf")), biases[0])

    def step_projection(self, sinusoids: Tensor, biases: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """
        Weight and bias of one linear map that gives all that a single token's attention needs, for :meth:`over_cache`.

        :param sinusoids: Of the distances 0 ... L-1, (L, D).
        :param biases: u and w, each (H, D / H).
        :return: Weight (3 D + H (L + 1), D) and bias: the query with u added, key, value, and every head's scores of all
            distances, with a last one of -inf for tokens that do not exist.
        """
        content_bias, distance_bias = biases
        query, key_value = self.qkv.weight.split((content_bias.numel(), 2 * content_bias.numel()))
        r = split_heads(self.distance(sinusoids), self.n_heads) * content_bias.shape[1] ** -0.5  # (H, L, D / H)
        by_distance = r @ query.unflatten(0, (self.n_heads, -1))  # (H, L, D)
        scores = (r @ distance_bias[..., None]).squeeze(-1)  # (H, L)
        weight = th.cat((query, key_value, F.pad(by_distance, (0, 0, 0, 1)).flatten(0, 1)))
        nothing = weight.new_zeros(len(key_value))
        return weight, th.cat((content_bias.flatten(), nothing, F.pad(scores, (0, 1), value=float("-inf")).flatten()))

    def over_cache(self, q: Tensor, keys_values: Tensor, scores: Tensor, distance: Tensor) -> Tensor:
        """
        One token per row attends to its segment so far; inputs as :meth:`step_projection` makes them.

        :param q: Query, (B, D).
        :param keys_values: Of the segment's tokens, its own included, (B, L, 2 D).
        :param scores: Of every distance, (B, H (L + 1)).
        :param distance: From the query back to each cached token, (B, L) int64; L where there is none yet.
        :return: (B, D).
        """
        length = distance.shape[1]
        bias = scores.view(len(q), self.n_heads, length + 1).gather(2, distance[:, None].expand(-1, self.n_heads, -1))
        heads = q.view(len(q), self.n_heads, 1, -1)
        k, v = (split_heads(part, self.n_heads) for part in keys_values.chunk(2, dim=2))
        y = F.scaled_dot_product_attention(heads, k, v, attn_mask=bias[:, :, None])
        return self.out(y.view(q.shape))

    def _distance_scores(self, q: Tensor, r: Tensor, distance_bias: Tensor) -> Tensor:
        q = split_heads(q, self.n_heads) + distance_bias[:, None]
        return q @ split_heads(r, self.n_heads).transpose(-1, -2) * q.shape[-1] ** -0.5

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, content_bias: Tensor) -> Tensor:
        q = split_heads(q, self.n_heads) + content_bias[:, None]
        k, v = split_heads(k, self.n_heads), split_heads(v, self.n_heads)
        dropout = self.dropout if self.training else 0.0
        return self.out(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)))


class CrossAttention(nn.Module):
    """Attention of the read (tokens query slots) and of the write (slots query tokens), with an additive relative bias."""

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(config.d_model, config.d_model, bias=False)
        self.key_value = nn.Linear(config.d_model, 2 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what is attended to, from (B, T, D), each (B, T, D)."""
        key, value = self.key_value(x).chunk(2, dim=-1)
        return key, value

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """
        :param x: What queries, (B, T, D).
        :param keys: (B, S, D); ``values`` likewise.
        :param bias: Added to the scaled scores, (B, H, T, S).
        :return: (B, T, D).
        """
        q, k, v = (split_heads(part, self.n_heads) for part in (self.query(x), keys, values))
        dropout = self.dropout if self.training else 0.0
        return self.out(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)))

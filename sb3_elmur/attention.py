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

    def over_cache(
        self, q: Tensor, keys: Tensor, values: Tensor, r: Tensor, distance: Tensor, biases: tuple[Tensor, Tensor]
    ) -> Tensor:
        """
        One token per row attends to its segment so far.

        :param q: Query, (B, 1, D).
        :param keys: Keys of the segment's tokens, its own included, (B, L, D); ``values`` likewise.
        :param r: Projected distances, (L, D).
        :param distance: From the query back to each cached token, (B, L) int64; negative where there is none yet.
        :param biases: u and w, each (H, D / H).
        :return: (B, 1, D).
        """
        scores = self._distance_scores(q, r, biases[1])  # (B, H, 1, L), last axis: distance
        index = distance.clamp(min=0)[:, None, None, :].expand_as(scores)
        bias = scores.gather(-1, index).masked_fill((distance < 0)[:, None, None, :], float("-inf"))
        return self._attend(q, keys, values, bias, biases[0])

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

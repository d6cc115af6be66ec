"""
The attentions of the ELMUR layer: causal self-attention with relative positions, and cross-attention with a relative bias.

Sequences run on ``torch.nn.functional.scaled_dot_product_attention`` with an additive bias, single tokens on plain products.
"""

from collections.abc import Callable

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.core.config import ElmurConfig

_ALIGNMENT = 8  # numbers
Place = tuple[Tensor, Tensor, Tensor]
Put = Callable[..., Tensor]


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(..., T, D) to (..., H, T, D / H); heads are contiguous blocks of the width."""
    return x.unflatten(-1, (n_heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """(..., H, T, D / H) to (..., T, D)."""
    return x.transpose(-3, -2).flatten(-2)


def attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor, dropout: float = 0.0) -> Tensor:
    """
    Attend by two products: for so little work a fused kernel takes longer, and few have a gradient of the bias.

    :param q: (B H, T, D / H).
    :param keys: (B, H, S, D / H).
    :param values: As the keys.
    :param bias: Added to the scores, which are scaled by ``(D / H)^(-1/2)``, (B H, T, S).
    :param dropout: Probability with which attention weights are dropped.
    :return: (B H, T, D / H).
    """
    weights = th.baddbmm(bias, q, keys.flatten(0, 1).mT, alpha=q.shape[-1] ** -0.5).softmax(dim=-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return th.bmm(weights, values.flatten(0, 1))


def sinusoids(distances: int, d_model: int) -> Tensor:
    """
    Compute sine and cosine features of the distances 0, 1, ... in steps; frequency k is ``10000^(-2k/D)``.

    :param distances: Number of distances.
    :param d_model: Width D, even.
    :return: (distances, D).
    """
    frequencies = 10000.0 ** (-th.arange(0, d_model, 2, dtype=th.float64) / d_model)
    angles = th.arange(distances, dtype=th.float64)[:, None] * frequencies
    return th.cat((angles.sin(), angles.cos()), dim=1).to(th.get_default_dtype())


class SelfAttention(nn.Module):
    """
    Causal self-attention within a segment (token track), with the relative positions of Transformer-XL (arXiv 1901.02860).

    ``score(i, j) = ((q_i + u) k_j + (q_i + w) r_{i-j}) / sqrt(D / H)`` with ``r_d = W_r sinusoid(d)``; u (``content_bias``)
    and w (``distance_bias``), each (H, D / H), are shared by all layers and passed in.

    :param config: Width, heads and dropout.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.distance = nn.Linear(config.d_model, config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def projection(self, sinusoids: Tensor, biases: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """
        Compute one linear map from a token to all that its attention needs; it depends on the weights alone.

        ``(q + w) r_d`` is linear in the token, so the scores of all distances need no product of their own.

        :param sinusoids: Of the distances 0 ... L-1, (L, D).
        :param biases: u and w, each (H, D / H).
        :return: Weight (3 D + H P, D) and bias for: the query with u added, every head's key and value, and every head's
            scores of all distances, scaled, and of -inf for tokens that do not exist; P is L + 1, rounded up to what fused
            kernels of GPUs ask of strides.
        """
        content_bias, distance_bias = biases
        query, key_value = self.qkv.weight.split((content_bias.numel(), 2 * content_bias.numel()))
        r = split_heads(self.distance(sinusoids), self.n_heads) * content_bias.shape[1] ** -0.5  # (H, L, D / H)
        by_distance = r @ query.unflatten(0, (self.n_heads, -1))  # (H, L, D)
        scores = (r @ distance_bias[..., None]).squeeze(-1)  # (H, L)
        key_value = key_value.unflatten(0, (2, self.n_heads, -1)).transpose(0, 1).flatten(0, 2)
        rest = _ALIGNMENT - scores.shape[1] % _ALIGNMENT
        weight = th.cat((query, key_value, F.pad(by_distance, (0, 0, 0, rest)).flatten(0, 1)))
        bias = F.pad(content_bias.flatten(), (0, len(key_value)))
        return weight, th.cat((bias, F.pad(scores, (0, rest), value=float("-inf")).flatten()))

    def split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (..., D), keys and values (..., H, 2 D / H), and distance scores (..., H, P) of projected tokens."""
        d_model = self.out.in_features
        query, key_value, scores = projected.split((d_model, 2 * d_model, projected.shape[-1] - 3 * d_model), dim=-1)
        return query, key_value.unflatten(-1, (self.n_heads, -1)), scores.unflatten(-1, (self.n_heads, -1))

    def forward(self, x: Tensor, projection: tuple[Tensor, Tensor], distance: Tensor) -> tuple[Tensor, Tensor]:
        """
        Tokens attend to their segment so far.

        :param x: Tokens, (B, T, D).
        :param projection: What :meth:`projection` returned.
        :param distance: From each token back to each other, (T, T) int64; L for later ones.
        :return: (B, T, D), and the tokens' keys and values, (B, T, H, 2 D / H).
        """
        q, keys_values, scores = self.split(F.linear(x, *projection))
        bias = scores.gather(3, distance[:, None].expand(len(q), -1, self.n_heads, -1)).transpose(1, 2)  # (B, H, T, T)
        k, v = keys_values.transpose(1, 2).chunk(2, dim=3)  # each (B, H, T, D / H)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(split_heads(q, self.n_heads), k, v, attn_mask=bias, dropout_p=dropout)
        return self.out(merge_heads(y)), keys_values

    def step(
        self, x: Tensor, projection: tuple[Tensor, Tensor], distance: Tensor, keys_values: Tensor, place: Place, put: Put
    ) -> tuple[Tensor, Tensor]:
        """
        One token per row attends to its segment so far.

        :param x: Tokens, (B, D).
        :param projection: What :meth:`projection` returned.
        :param distance: From the token back to the others, for each head, (B, H, L) int64; L for later ones.
        :param keys_values: Of the segment's earlier tokens, (B, H, L, 2 D / H).
        :param place: Indices of row, head and step at which ``keys_values`` takes these tokens, broadcast to (B, H).
        :param put: ``Tensor.index_put`` or, to write into ``keys_values``, ``Tensor.index_put_``.
        :return: (B, D), and ``keys_values`` with these tokens.
        """
        q, key_value, scores = self.split(F.linear(x, *projection))
        keys_values = put(keys_values, place, key_value)
        bias = scores.gather(2, distance)  # (B, H, L)
        keys, values = keys_values.chunk(2, dim=3)
        q, bias = q.reshape(-1, 1, keys.shape[-1]), bias.view(-1, 1, keys.shape[-2])
        y = attend(q, keys, values, bias, self.dropout if self.training else 0.0)
        return self.out(y.view_as(x)), keys_values


class CrossAttention(nn.Module):
    """
    The weights of an attention between tokens and slots, with an additive relative bias.

    :param config: Width, heads and dropout.
    """

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.n_heads, self.head_size = config.n_heads, config.d_model // config.n_heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(config.d_model, config.d_model, bias=False)
        self.key_value = nn.Linear(config.d_model, 2 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model)


class ReadAttention(CrossAttention):
    """The paper's mem2tok, the read: tokens query slots."""

    def queries(self, rows: Tensor, batch: int) -> Tensor:
        """Queries of (B T, D) by head, (B H, T, D / H)."""
        return self.query(rows).view(batch, -1, self.n_heads, self.head_size).transpose(1, 2).flatten(0, 1)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what is attended to, (..., S, D), by head, each (..., H, S, D / H)."""
        parts = self.key_value(x.flatten(0, -2)).view(*x.shape[:-1], 2, self.n_heads, self.head_size)
        keys, values = parts.movedim((-3, -2), (0, -3)).contiguous().unbind(0)  # of (2, ..., H, S, D / H)
        return keys, values

    def forward(
        self, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor, shared: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """
        Attend.

        :param q: What :meth:`queries` returned, (B H, T, D / H).
        :param keys: What :meth:`keys_values` returned, (B, H, S, D / H); ``values`` likewise.
        :param bias: Added to the scaled scores, (B H, T, S).
        :param shared: Keys and values that all rows attend to besides, without a bias, each (H, R, D / H).
        :return: (B T, D).
        """
        dropout = self.dropout if self.training else 0.0
        if shared is None:
            y = attend(q, keys, values, bias, dropout).unflatten(0, keys.shape[:2])  # (B, H, T, D / H)
            return self.out(y.transpose(1, 2).reshape(-1, self.out.in_features))
        batch, time = keys.shape[0], q.shape[1]
        shared_keys, shared_values = shared
        q = q.unflatten(0, (batch, -1)) * q.shape[-1] ** -0.5  # (B, H, T, D / H)
        shared_scores = q.transpose(0, 1).flatten(1, 2) @ shared_keys.mT  # (H, B T, R)
        own_scores = (q @ keys.mT + bias.unflatten(0, (batch, -1))).transpose(0, 1).flatten(1, 2)  # (H, B T, S)
        weights = F.dropout(th.cat((own_scores, shared_scores), dim=-1).softmax(dim=-1), dropout)
        own_weights, shared_weights = weights.split((keys.shape[2], shared_keys.shape[1]), dim=-1)
        y = own_weights.unflatten(1, (batch, time)).transpose(0, 1) @ values  # (B, H, T, D / H)
        y = y + (shared_weights @ shared_values).unflatten(1, (batch, time)).transpose(0, 1)
        return self.out(y.transpose(1, 2).reshape(-1, self.out.in_features))


class WriteAttention(CrossAttention):
    """
    The paper's tok2mem, the write: one slot of each row queries the tokens of a segment.

    With a single query it pays to multiply weights first, once for many segments: tokens need neither keys nor values.
    """

    def maps(self) -> tuple[Tensor, Tensor]:
        """
        Multiply the weights of each head, those of queries with those of keys and those of values with those of the output.

        :return: The map from slots to queries of tokens, which scales them, (D, H D), and the one from every head's mean
            token to the output, (H D, D).
        """
        query, out = self.query.weight.unflatten(0, (self.n_heads, -1)), self.out.weight.unflatten(1, (self.n_heads, -1))
        key, value = self.key_value.weight.unflatten(0, (2, self.n_heads, -1)).unbind(0)  # each (H, D / H, D)
        to_query = (query.mT @ key).transpose(0, 1).flatten(1) * self.head_size**-0.5
        return to_query, (value.mT @ out.permute(1, 2, 0)).flatten(0, 1)

    def queries(self, slots: Tensor, to_query: Tensor) -> Tensor:
        """Queries of slots (b, D), by the first of :meth:`maps`, (b, H, D)."""
        return (slots @ to_query).unflatten(1, (self.n_heads, -1))

    def forward(self, q: Tensor, tokens: Tensor, bias: Tensor, to_output: Tensor) -> Tensor:
        """
        Attend.

        :param q: What :meth:`queries` returned, (b, H, D).
        :param tokens: (b, T, D).
        :param bias: Added to the scores, (b, H, T).
        :param to_output: The second of :meth:`maps`.
        :return: (b, D).
        """
        weights = th.baddbmm(bias, q, tokens.mT).softmax(dim=-1)
        if self.training and self.dropout:
            weights = F.dropout(weights, self.dropout)
        return th.addmm(self.out.bias, th.bmm(weights, tokens).flatten(1), to_output)

"""
What an ELMUR stack does in a segment, recorded from outside: attention weights of reads and writes, gates, and routers.

The stack runs as it always does, while forward hooks note what goes through its parts; they are gone afterwards, so that
nothing else becomes slower. Attention weights, which the fused kernels keep to themselves, are computed anew from the inputs.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch as th
from torch import Tensor, nn

from sb3_elmur.core.attention import CrossAttention, ReadAttention
from sb3_elmur.core.blending import GatedBlend
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.feedforward import MixtureOfExperts
from sb3_elmur.core.memory import Memory


class SegmentTrace(NamedTuple):
    """
    One segment of B rows, of which b are complete and write memory.

    :param before: Memory before the segment.
    :param after: Memory after it.
    :param lengths: Tokens of each row, (B,) int64.
    :param read: Attention of tokens on slots, (B, N, H, T, M); of tokens behind a row's length it means nothing.
    :param rows: The rows that write, (b,) int64.
    :param slot: The slot that each of them writes, (b,) int64.
    :param empty: Whether nothing was written to that slot before, (b,) bool.
    :param write: Attention of the written slot on the segment's tokens, (b, N, H, L).
    :param blend: Weight of the new content, (b, N); 1 for an empty slot.
    :param gate_logits: Of a content gate, (b, N); ``None`` with other blends.
    :param routers: Probabilities of each router over its tokens or candidates, (n, E); none without experts.
    """

    before: Memory
    after: Memory
    lengths: Tensor
    read: Tensor
    rows: Tensor
    slot: Tensor
    empty: Tensor
    write: Tensor
    blend: Tensor
    gate_logits: Tensor | None
    routers: tuple[Tensor, ...]

    @property
    def real(self) -> Tensor:
        """Which tokens are real, (B, T) bool."""
        return th.arange(self.read.shape[3], device=self.lengths.device) < self.lengths[:, None]


class Call(NamedTuple):
    """One call of a module."""

    inputs: tuple[Any, ...]
    output: Tensor


Calls = dict[nn.Module, list[Call]]


@contextmanager
def recorded_calls(modules: Iterable[nn.Module]) -> Iterator[Calls]:
    """
    Note every call of some modules while the context lasts.

    :param modules: Whose calls to note.
    :return: The calls of each module, in their order.
    """
    calls: Calls = {module: [] for module in modules}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[module].append(Call(inputs, output))

    handles = [module.register_forward_hook(note) for module in calls]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def read_weights(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor, shared: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """
    Attention weights of a read; arguments as :meth:`sb3_elmur.core.attention.ReadAttention.forward`.

    :return: (B, H, T, S), with ``shared`` (B, H, T, S + R).
    """
    q, bias = (part.unflatten(0, keys.shape[:2]) for part in (q * q.shape[-1] ** -0.5, bias))
    scores = q @ keys.mT + bias
    if shared is not None:
        scores = th.cat((scores, q @ shared[0].mT), dim=-1)
    return scores.softmax(dim=-1)


def write_weights(q: Tensor, tokens: Tensor, bias: Tensor, to_output: Tensor) -> Tensor:
    """
    Attention weights of a write; arguments as :meth:`sb3_elmur.core.attention.WriteAttention.forward`.

    :return: (b, H, T).
    """
    return (q @ tokens.mT + bias).softmax(dim=-1)


@th.no_grad()
def trace_segment(core: Elmur, x: Tensor, memory: Memory, lengths: Tensor) -> SegmentTrace:
    """
    Run a segment as :meth:`sb3_elmur.core.elmur.Elmur.segment` does, and tell what happened.

    :param core: A stack with memory, in evaluation mode.
    :param x: Tokens, (B, T, D).
    :param memory: Memory before the segment.
    :param lengths: Tokens of each row, (B,) int64.
    :return: What happened.
    """
    reads, writes, blends = zip(*((layer.read, layer.write, layer.blend) for layer in core.layers), strict=True)
    gates = [blend.logit for blend in blends if isinstance(blend, GatedBlend)]
    feedforwards = [ffn for layer in core.layers for ffn in (layer.token_ffn, layer.memory_ffn)]
    routers = [ffn.router for ffn in feedforwards if isinstance(ffn, MixtureOfExperts)]
    # compiled code does not call hooks
    eager = th.compiler.set_stance("force_eager") if core.config.compile is True else nullcontext()
    with eager, recorded_calls([*reads, *writes, *blends, *gates, *routers]) as calls:
        _, after = core.segment(x, memory, lengths)

    rows = (lengths == core.segment_length).nonzero().squeeze(1)
    slot, empty = core.choose_slot(memory.anchors[rows])
    n_layers, n_heads = core.config.n_layers, core.config.n_heads
    no_writes, no_blends = x.new_zeros(0, n_layers, n_heads, core.segment_length), x.new_zeros(0, n_layers)
    return SegmentTrace(
        before=memory._replace(position=memory.segment_start(core.segment_length)),
        after=after,
        lengths=lengths,
        read=_attention(reads, calls, no_writes),
        rows=rows,
        slot=slot,
        empty=empty,
        write=_attention(writes, calls, no_writes),
        blend=_outputs(blends, calls, no_blends).masked_fill(empty[:, None], 1.0),
        gate_logits=_outputs(gates, calls, no_blends) if gates else None,
        routers=tuple(_probabilities(routers, calls, th.arange(x.shape[1], device=x.device) < lengths[:, None])),
    )


def _attention(attentions: Iterable[CrossAttention], calls: Calls, nothing: Tensor) -> Tensor:
    """Attention weights of reads (B, N, H, T, S) or writes (b, N, H, L), layer by layer; ``nothing`` if there were none."""
    weights = [
        (read_weights if isinstance(module, ReadAttention) else write_weights)(*calls[module][0].inputs)
        for module in attentions
        if calls[module]
    ]
    return th.stack(weights, dim=1) if weights else nothing


def _outputs(modules: Iterable[nn.Module], calls: Calls, nothing: Tensor) -> Tensor:
    """What modules returned for each row that wrote, layer by layer, (b, N); ``nothing`` if there were none."""
    outputs = [calls[module][0].output.flatten() for module in modules if calls[module]]
    return th.stack(outputs, dim=1) if outputs else nothing


def _probabilities(routers: Iterable[nn.Module], calls: Calls, real: Tensor) -> Iterator[Tensor]:
    """Probabilities of each router, (n, E), over the tokens that are ``real``, (B, T) bool, or over candidates."""
    for router in routers:
        for call in calls[router]:
            output = call.output.softmax(dim=-1)
            yield output[real.flatten()] if len(output) == real.numel() else output

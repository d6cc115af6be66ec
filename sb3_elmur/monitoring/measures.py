"""
What to watch in a memory, as numbers: slots, reads, writes, gates, experts, and the gradient of what is written.

Pure functions on memories and on :class:`sb3_elmur.monitoring.tracing.SegmentTrace`. Each returns measures by name, and leaves
out what cannot be said, such as the age of slots that nothing was written to. ``docs/metrics.md`` explains every one.

Axis letters: B batch, N layers, M slots, D width, H heads, T tokens, E experts; b rows that wrote.
"""

import math
from collections.abc import Iterable

import torch as th
from torch import Tensor

from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.memory import EMPTY, Memory
from sb3_elmur.monitoring.tracing import SegmentTrace

MOST_SLOTS = 8  # that have measures of their own
CHOICES_PER_EXPERT = 4  # without which a router's load is chance
Measures = dict[str, float]


def measure_slots(memory: Memory, initial_slots: Tensor) -> Measures:
    """
    How full, old, large and different slots are.

    :param memory: Memory of B rows, of different environments or times.
    :param initial_slots: Contents of empty slots, (N, M, D).
    :return: Measures by name.
    """
    written = memory.anchors != EMPTY  # (B, M)
    norms = memory.slots.norm(dim=-1)  # (B, N, M)
    by_slot = written[:, None].expand_as(norms)
    unit = th.nn.functional.normalize(memory.slots, dim=-1) * by_slot[..., None]
    count = written.sum(1)
    pairs = (count * (count - 1))[:, None].expand(norms.shape[:2])
    similarity = (unit.sum(2).square().sum(-1) - count[:, None]) / pairs  # the mean over pairs of different slots
    return _known(
        occupancy=written.float(),
        slot_age=slot_ages(memory)[written].float(),
        slot_norm_written=norms[by_slot],
        slot_norm_empty=initial_slots.norm(dim=-1),
        slot_similarity=similarity[pairs > 0],
        slot_variation=_variation(memory.slots, written),
    )


def slot_ages(memory: Memory) -> Tensor:
    """Steps since each slot was written, 0 right after it, (B, M); without meaning for empty slots."""
    return memory.position[:, None] - 1 - memory.anchors


def _variation(slots: Tensor, written: Tensor) -> Tensor:
    """Of each slot that two rows have written, how far its contents are spread: variance over mean square, in [0, 1]."""
    weight = written.float()[:, None, :, None]
    count = weight.sum(0)  # (1, M, 1)
    mean = (slots * weight).sum(0) / count
    square = (slots * weight).square().sum((0, 3)) / count[..., 0]
    spread = (1 - mean.square().sum(-1) / square).clamp(min=0)  # (N, M)
    return spread[:, count[0, :, 0] > 1]


def measure_reads(trace: SegmentTrace) -> Measures:
    """
    Where tokens read: attention on slots, the mean over layers, heads and tokens.

    :param trace: Of B rows.
    :return: Measures by name.
    """
    rows = trace.lengths > 0
    read, anchors = trace.read[rows].mean((1, 2)), trace.before.anchors[rows]  # (B, T, M), (B, M)
    mass = (read * trace.real[rows][..., None]).sum(1) / trace.lengths[rows, None]
    written, n_slots = anchors != EMPTY, anchors.shape[1]
    mixed = written.any(1) & ~written.all(1)
    measures = _known(read_written=(mass * written).sum(1)[mixed], share_written=written[mixed].float())
    if n_slots > 1:
        entropy = _entropy(trace.read[rows])[trace.real[rows][:, None, None].expand(trace.read[rows].shape[:4])]
        measures |= _known(read_entropy=entropy / math.log(n_slots))
    newest_first = anchors.argsort(dim=1, descending=True, stable=True)
    by_age, known = mass.gather(1, newest_first), written.gather(1, newest_first)
    for i in range(min(n_slots, MOST_SLOTS)):
        measures |= _known(**{f"read_slot{i}": mass[:, i], f"read_age{i}": by_age[:, i][known[:, i]]})
    return measures


def measure_writes(trace: SegmentTrace) -> Measures:
    """
    Where written slots look, how often they replace something, and how much of it.

    :param trace: With b rows that wrote.
    :return: Measures by name.
    """
    full, length = ~trace.empty, trace.write.shape[-1]
    measures = _known(overwrite_rate=full.float(), blend=trace.blend[full])
    if length > 1:
        measures |= _known(write_entropy=_entropy(trace.write) / math.log(length))
    for n, blend in enumerate(trace.blend[full].unbind(1)):
        measures |= _known(**{f"blend_layer{n}": blend})
    if trace.gate_logits is not None:
        measures |= _known(gate_slope=1 / (1 + trace.gate_logits[full].abs()).square())
    return measures


def measure_experts(trace: SegmentTrace, n_chosen: int) -> Measures:
    """
    How evenly routers use their experts.

    :param trace: Of a stack with a mixture of experts; routers with too few tokens are left out.
    :param n_chosen: Routed experts per token (k).
    :return: Measures by name.
    """
    loads, aux_losses = [], []
    for probabilities in trace.routers:
        n_experts = probabilities.shape[1]
        if len(probabilities) * n_chosen < CHOICES_PER_EXPERT * n_experts:
            continue
        chosen = probabilities.topk(n_chosen, dim=1).indices.flatten().bincount(minlength=n_experts)
        load = chosen / (len(probabilities) * n_chosen) * n_experts
        loads.append(load)
        aux_losses.append((load * probabilities.mean(0)).sum() / n_chosen)
    if not loads:
        return {}
    load = th.stack(loads)
    return {
        "expert_load_min": load.min().item(),
        "expert_load_max": load.max().item(),
        "aux_loss": th.stack(aux_losses).mean().item(),
    }


def measure_gradient(core: Elmur, parameters: Iterable[th.nn.Parameter]) -> Measures:
    """
    The gradient that reaches what is written, left behind by the last update.

    It is that of the output weights of the memory's feed-forward networks, the last ones on the way into a slot, which
    nothing but later reads can give a gradient; earlier weights also get that of a load-balancing loss.

    :param core: A stack with memory.
    :param parameters: All that the update trained.
    :return: Measures by name.
    """
    last = [parameter for layer in core.layers for parameter in layer.write_outputs()]
    total = _gradient_norm(parameters)
    if total == 0.0:
        return {}
    norm = _gradient_norm(last)
    return {"write_grad_norm": norm, "write_grad_share": norm / total}


def _gradient_norm(parameters: Iterable[th.nn.Parameter]) -> float:
    norms = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
    return th.stack(norms).norm().item() if norms else 0.0


def _entropy(weights: Tensor) -> Tensor:
    """Entropy in nats over the last axis."""
    return th.special.entr(weights).sum(-1)


def _known(**values: Tensor) -> Measures:
    """The means of those that have any value."""
    return {name: value.mean().item() for name, value in values.items() if value.numel()}

"""Measures: values that can be told by hand."""

import math
from typing import Any

import pytest
import torch as th

from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.memory import EMPTY, Memory
from sb3_elmur.monitoring.measures import measure_experts, measure_gradient, measure_reads, measure_slots, measure_writes
from sb3_elmur.monitoring.tracing import SegmentTrace


def make_memory(slots: th.Tensor, anchors: list[list[int]], position: int) -> Memory:
    return Memory(slots, th.tensor(anchors), th.full((len(anchors),), position))


def make_trace(read: th.Tensor, anchors: list[list[int]], lengths: list[int], **fields: Any) -> SegmentTrace:
    n_layers, n_heads = read.shape[1:3]
    memory = make_memory(th.zeros(len(anchors), n_layers, len(anchors[0]), 2), anchors, 8)
    defaults: dict[str, Any] = dict(
        rows=th.arange(0), slot=th.arange(0), empty=th.zeros(0, dtype=th.bool), write=th.zeros(0, n_layers, n_heads, 4),
        blend=th.zeros(0, n_layers), gate_logits=None, routers=(),
    )  # fmt: skip
    return SegmentTrace(before=memory, after=memory, lengths=th.tensor(lengths), read=read, **defaults | fields)


def test_occupancy_age_and_norms_of_slots() -> None:
    slots = th.tensor([[[[3.0, 4.0], [0.0, 2.0]]], [[[0.0, 1.0], [0.0, 1.0]]]])
    memory = make_memory(slots, [[3, EMPTY], [3, 7]], 10)
    measures = measure_slots(memory, th.tensor([[[0.5, 0.0], [1.5, 0.0]]]))
    assert measures["occupancy"] == pytest.approx(0.75)
    assert measures["slot_age"] == pytest.approx((6 + 6 + 2) / 3)
    assert measures["slot_norm_written"] == pytest.approx((5 + 1 + 1) / 3)
    assert measures["slot_norm_empty"] == pytest.approx(1.0)


@pytest.mark.parametrize(("second", "similarity"), [([2.0, 0.0], 1.0), ([-1.0, 0.0], -1.0), ([0.0, 3.0], 0.0)])
def test_similarity_of_written_slots(second: list[float], similarity: float) -> None:
    slots = th.tensor([[[[1.0, 0.0], second, [5.0, 5.0]]]])
    measures = measure_slots(make_memory(slots, [[3, 7, EMPTY]], 8), slots[0])
    assert measures["slot_similarity"] == pytest.approx(similarity)


@pytest.mark.parametrize(("contents", "variation"), [([1.0, 1.0], 0.0), ([1.0, -1.0], 1.0), ([1.0, 3.0], 0.2)])
def test_variation_of_a_slot_over_rows(contents: list[float], variation: float) -> None:
    slots = th.tensor(contents)[:, None, None, None] * th.ones(2, 1, 1, 2)
    measures = measure_slots(make_memory(slots, [[3], [3]], 4), slots[0])
    assert measures["slot_variation"] == pytest.approx(variation)


def test_what_cannot_be_said_is_left_out() -> None:
    slots = th.ones(1, 1, 2, 2)
    assert set(measure_slots(make_memory(slots, [[EMPTY, EMPTY]], 2), slots[0])) == {"occupancy", "slot_norm_empty"}
    assert not {"blend", "overwrite_rate"} & set(measure_writes(make_trace(th.ones(1, 1, 1, 2, 1), [[EMPTY]], [2])))


def test_reads_by_slot_and_by_age() -> None:
    read = th.tensor([0.1, 0.2, 0.7]).expand(2, 1, 1, 3, 3).clone()
    read[1, :, :, 2] = th.tensor([1.0, 0.0, 0.0])  # padding
    measures = measure_reads(make_trace(read, [[3, 7, EMPTY], [3, 7, 5]], [3, 2]))
    assert [measures[f"read_slot{i}"] for i in range(3)] == pytest.approx([0.1, 0.2, 0.7])
    # newest first: slots 1, 0 in the one row, 1, 2, 0 in the other
    assert [measures[f"read_age{i}"] for i in range(3)] == pytest.approx([0.2, (0.1 + 0.7) / 2, 0.1])
    assert measures["read_written"] == pytest.approx(0.3)  # only the row with an empty slot can tell
    assert measures["share_written"] == pytest.approx(2 / 3)
    entropy = -sum(p * math.log(p) for p in (0.1, 0.2, 0.7)) / math.log(3)
    assert measures["read_entropy"] == pytest.approx(entropy)


def test_writes_and_gates() -> None:
    trace = make_trace(
        th.ones(3, 2, 1, 4, 1), [[3]] * 3, [4] * 3,
        rows=th.arange(3), slot=th.zeros(3, dtype=th.int64), empty=th.tensor([True, False, False]),
        write=th.full((3, 2, 1, 4), 0.25), blend=th.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]),
        gate_logits=th.tensor([[9.0, 9.0], [1.0, -1.0], [1.0, -1.0]]),
    )  # fmt: skip
    measures = measure_writes(trace)
    assert measures["overwrite_rate"] == pytest.approx(2 / 3)
    assert measures["blend"] == pytest.approx(0.25)
    assert (measures["blend_layer0"], measures["blend_layer1"]) == pytest.approx((0.0, 0.5))
    assert measures["write_entropy"] == pytest.approx(1.0)
    assert measures["gate_slope"] == pytest.approx(0.25)


def test_expert_load_is_1_for_a_fair_share() -> None:
    probabilities = th.tensor([[0.6, 0.3, 0.1]] * 9 + [[0.1, 0.8, 0.1]] * 3)
    measures = measure_experts(make_trace(th.ones(1, 1, 1, 1, 1), [[3]], [1], routers=(probabilities,)), 1)
    assert measures["expert_load_max"] == pytest.approx(3 * 0.75)
    assert measures["expert_load_min"] == 0.0
    mean = probabilities.mean(0)
    assert measures["aux_loss"] == pytest.approx(3 * (0.75 * mean[0] + 0.25 * mean[1]).item())


@pytest.mark.parametrize("ffn", ["swiglu", "gelu", "moe"])
@pytest.mark.parametrize("detached", [True, False])
def test_the_gradient_of_what_is_written_is_zero_where_memory_is_detached(ffn: str, detached: bool) -> None:
    th.manual_seed(0)
    config = ElmurConfig(d_model=8, n_heads=2, segment_length=4, memory_size=2, max_distance=16, ffn=ffn)
    core = Elmur(config)
    memory, tokens = core.initial_memory(2), th.zeros(2, 3, 8)
    starts = th.zeros(2, 8, dtype=th.bool)
    y, _, _ = core.unroll(th.randn(2, 8, 8), memory, tokens, starts, detach_memory=detached, need_state=True)
    y.square().sum().backward()
    measures = measure_gradient(core, core.parameters())
    assert (measures["write_grad_norm"] == 0.0) == detached
    assert 0.0 <= measures["write_grad_share"] < 1.0


def test_without_an_update_there_is_no_gradient_to_measure() -> None:
    core = Elmur(ElmurConfig(d_model=8, n_heads=2, segment_length=4, memory_size=2, max_distance=16))
    assert measure_gradient(core, core.parameters()) == {}

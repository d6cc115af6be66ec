"""Tracing: it sees what the stack computed, and leaves no trace of its own."""

from typing import Any

import pytest
import torch as th

from sb3_elmur.core.attention import merge_heads
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.memory import EMPTY, Memory
from sb3_elmur.monitoring.tracing import read_weights, recorded_calls, trace_segment, write_weights

SMALL: dict[str, Any] = {"d_model": 8, "n_heads": 2, "segment_length": 4, "memory_size": 3, "max_distance": 16}
VARIANTS = [{}, {"blend": "gated", "gate_bias": 0.0}, {"norm_first": True, "norm": "rms"}, {"ffn": "moe"}, {"memory_size": 64}]


def make_core(**arguments: Any) -> Elmur:
    th.manual_seed(0)
    core = Elmur(ElmurConfig(**SMALL | arguments)).eval()
    for layer in core.layers:
        th.nn.init.normal_(layer.relative_bias)
    return core


def after_segments(core: Elmur, n: int, batch: int = 3) -> Memory:
    memory = core.initial_memory(batch)
    for _ in range(n):
        _, memory = core.segment(th.randn(batch, 4, 8), memory, th.full((batch,), 4))
    return memory


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
@pytest.mark.parametrize("n_written", [0, 1, 5])
@th.no_grad()
def test_read_weights_explain_the_attentions_output(arguments: dict[str, Any], n_written: int) -> None:
    core = make_core(**arguments)
    memory = after_segments(core, n_written)
    modules = [layer.read for layer in core.layers]
    with recorded_calls(modules) as calls:
        core.segment(th.randn(3, 4, 8), memory, th.full((3,), 4))
    for module in modules:
        ((inputs, output),) = calls[module]
        weights = read_weights(*inputs)
        values = inputs[2]
        if len(inputs) > 4 and inputs[4] is not None:
            values = th.cat((values, inputs[4][1].expand(3, -1, -1, -1)), dim=2)
        th.testing.assert_close(weights.sum(-1), th.ones(weights.shape[:-1]))
        th.testing.assert_close(module.out(merge_heads(weights @ values)).flatten(0, 1), output)


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
@pytest.mark.parametrize("n_written", [0, 5])
@th.no_grad()
def test_write_weights_explain_the_attentions_output(arguments: dict[str, Any], n_written: int) -> None:
    core = make_core(**arguments)
    memory = after_segments(core, n_written)
    with recorded_calls([layer.write for layer in core.layers]) as calls:
        core.segment(th.randn(3, 4, 8), memory, th.full((3,), 4))
    for module, ((inputs, output),) in calls.items():
        weights = write_weights(*inputs)
        values = module.key_value(inputs[1])[..., 8:].unflatten(-1, (2, -1))  # (b, T, H, D / H)
        th.testing.assert_close(weights.sum(-1), th.ones(weights.shape[:-1]))
        th.testing.assert_close(module.out(th.einsum("bht,bthd->bhd", weights, values).flatten(1)), output)


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
@th.no_grad()
def test_a_trace_leads_to_the_same_memory_and_leaves_no_hooks(arguments: dict[str, Any]) -> None:
    core = make_core(**arguments)
    memory, x, lengths = after_segments(core, 4), th.randn(3, 4, 8), th.tensor([4, 2, 4])
    _, expected = core.segment(x, memory, lengths)
    trace = trace_segment(core, x, memory, lengths)
    for found, known in zip(trace.after, expected, strict=True):
        assert th.equal(found, known)
    assert not any(module._forward_hooks for module in core.modules())
    assert trace.rows.tolist() == [0, 2]
    n_slots = core.config.memory_size
    assert trace.read.shape == (3, 2, 2, 4, n_slots)
    assert trace.write.shape == (2, 2, 2, 4)
    assert trace.blend.shape == (2, 2)
    assert trace.real.sum(1).tolist() == [4, 2, 4]


@th.no_grad()
def test_blend_and_slot_tell_what_was_written() -> None:
    core = make_core(lru_blend=0.25)
    trace = trace_segment(core, th.randn(3, 4, 8), after_segments(core, 4), th.full((3,), 4))
    assert trace.slot.tolist() == [1, 1, 1]
    assert (trace.blend == 0.25).all()
    trace = trace_segment(core, th.randn(3, 4, 8), after_segments(core, 2), th.full((3,), 4))
    assert trace.slot.tolist() == [2, 2, 2]
    assert trace.empty.all()
    assert (trace.blend == 1.0).all()
    assert (trace.before.anchors[:, 2] == EMPTY).all()


@th.no_grad()
def test_gates_that_are_closed_keep_the_slot() -> None:
    core = make_core(blend="gated", gate_bias=-100.0)
    trace = trace_segment(core, th.randn(3, 4, 8), after_segments(core, 4), th.full((3,), 4))
    assert (trace.blend == 0.0).all()
    assert trace.gate_logits is not None
    assert (trace.gate_logits < -90).all()
    assert th.equal(trace.after.slots, trace.before.slots)


@th.no_grad()
def test_routers_are_seen_on_real_tokens_alone() -> None:
    core = make_core(ffn="moe")
    trace = trace_segment(core, th.randn(3, 4, 8), core.initial_memory(3), th.tensor([4, 2, 4]))
    assert sorted(len(each) for each in trace.routers) == [2, 2, 10, 10]
    for probabilities in trace.routers:
        th.testing.assert_close(probabilities.sum(1), th.ones(len(probabilities)))


@th.no_grad()
def test_without_a_complete_segment_nothing_is_written() -> None:
    core = make_core(blend="gated")
    trace = trace_segment(core, th.randn(2, 3, 8), core.initial_memory(2), th.tensor([3, 1]))
    assert trace.write.shape == (0, 2, 2, 4)
    assert trace.blend.shape == (0, 2)
    assert trace.after.position.tolist() == [3, 1]

"""Blending strategies: what they start from, what they keep, and what their gradients do."""

from typing import Any

import pytest
import torch as th
from torch import Tensor, nn

from sb3_elmur.core.blending import FixedBlend, GatedBlend, LearnedBlend
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.layer import WriteArguments
from sb3_elmur.core.memory import Memory

SMALL: dict[str, Any] = {"d_model": 8, "n_heads": 2, "segment_length": 3, "memory_size": 2, "n_layers": 2}


def run_segments(elmur: Elmur, x: Tensor) -> list[Memory]:
    """Memory after each segment of tokens (B, T, D)."""
    memory, memories = elmur.initial_memory(len(x)), []
    lengths = th.full((len(x),), elmur.segment_length)
    for segment in x.split(elmur.segment_length, dim=1):
        memory = elmur.segment(segment, memory, lengths)[1]
        memories.append(memory)
    return memories


def gated(bias: float, blend: str = "gated") -> Elmur:
    return Elmur(ElmurConfig(**SMALL, blend=blend, gate_bias=bias))


def rewritten(elmur: Elmur, slots: Tensor, empty: bool = False) -> list[Tensor]:
    """In each layer, what the same segment makes of its first slot where that holds each of the vectors (B, D)."""
    th.manual_seed(1)
    outputs = th.randn(1, 3, 8).expand(len(slots), -1, -1)
    blank = elmur.initial_slots[0, :1].expand(len(slots), -1)
    index = th.zeros(len(slots), 1, 3, dtype=th.int64)
    contents = []
    for layer in elmur.layers:
        bias = layer.bias(index).squeeze(2)
        write = WriteArguments(th.full((len(slots),), empty), blank, None, bias, layer.write_maps())
        contents.append(layer.rewrite(slots, outputs, write))
    return contents


@pytest.mark.parametrize("blend", ["gated", "gated_recurrent"])
def test_a_closed_gate_keeps_a_slot_bit_for_bit_and_for_ever(blend: str) -> None:
    memories = run_segments(gated(-100.0, blend), th.randn(4, 3 * 20, 8))
    assert all(th.equal(memory.slots, memories[1].slots) for memory in memories[2:])
    assert memories[-1].anchors.tolist() == [[56, 59]] * 4  # the least recently offered slot goes on being chosen


def test_an_open_gate_writes_what_does_not_depend_on_the_old_content() -> None:
    elmur = gated(100.0)
    full = Memory(th.randn(1, 2, 2, 8), th.tensor([[2, 5]]), th.tensor([6]))
    _, written = elmur.segment(th.randn(1, 3, 8), full, th.tensor([3]))
    assert not th.equal(written.slots[:, :, 0], full.slots[:, :, 0])
    assert th.equal(written.slots[:, :, 1], full.slots[:, :, 1])
    blank = elmur.initial_slots[0, :1].expand(2, -1)
    for new, filled in zip(rewritten(elmur, th.randn(2, 8)), rewritten(elmur, blank, empty=True), strict=True):
        assert th.equal(new, filled)


def test_an_open_recurrent_gate_writes_what_depends_on_the_old_content() -> None:
    for new in rewritten(gated(100.0, "gated_recurrent"), th.randn(2, 8)):
        assert (new[0] - new[1]).abs().max() > 0.1


@pytest.mark.parametrize("logit", [-3.0, -0.1, 0.1, 3.0])
def test_gradients_are_those_of_the_fast_sigmoid(logit: float) -> None:
    blend = GatedBlend(ElmurConfig(**SMALL, blend="gated"))
    nn.init.zeros_(blend.logit.weight)
    nn.init.constant_(blend.logit.bias, logit)
    weight = blend(th.randn(1, 8), th.randn(1, 8))
    assert weight.item() == float(logit > 0)
    weight.sum().backward()
    assert blend.logit.bias.grad is not None
    assert blend.logit.bias.grad.item() == pytest.approx(1 / (2 * (1 + abs(logit)) ** 2))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_learned_weight_begins_at_lru_blend(weight: float) -> None:
    config = ElmurConfig(**SMALL, lru_blend=weight)
    old, candidate = th.randn(2, 5, 8)
    learned = LearnedBlend(config)(old, candidate)
    th.testing.assert_close(learned, FixedBlend(config)(old, candidate), atol=1.1e-3, rtol=0)
    learned.sum().backward()


@pytest.mark.parametrize("blend", ["learned", "gated", "gated_recurrent"])
def test_blending_parameters_are_trained(blend: str) -> None:
    elmur = Elmur(ElmurConfig(**SMALL, blend=blend, gate_bias=0.0))
    x = th.randn(8, 15, 8)
    elmur.replay(x.unflatten(1, (5, 3)).transpose(0, 1).flatten(0, 2), elmur.initial_memory(8), th.full((8,), 15))[0][
        -24:
    ].square().sum().backward()
    for layer in elmur.layers:
        grads = [parameter.grad for parameter in layer.blend.parameters()]
        assert grads
        assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)

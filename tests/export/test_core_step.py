"""The step that is exported computes what the core's own step computes."""

from typing import Any, NamedTuple

import pytest
import torch as th
from torch import Tensor

from helpers import SMALL
from sb3_elmur.core import ElmurConfig
from sb3_elmur.core.backbone import make_core
from sb3_elmur.core.base import MemoryCore
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.memory import Memory
from sb3_elmur.export.core_step import CoreStep, named_tensors, write_complete

CORES: dict[str, dict[str, Any]] = {
    "fixed": {"blend": "fixed"},
    "learned": {"blend": "learned", "norm_first": True},
    "gated": {"blend": "gated", "gate_bias": 0.0},
    "gated recurrent": {"blend": "gated_recurrent", "gate_bias": 0.0},
    "moe": {"ffn": "moe", "n_routed_experts": 8},
    "without slots": {"memory_size": 0},
    "gru": {"core": "gru"},
    "lstm": {"core": "lstm"},
    "mingru": {"core": "mingru"},
    "ffm": {"core": "ffm"},
    "shm": {"core": "shm", "core_kwargs": {"matrix_size": 4}},
    "gtrxl": {"core": "gtrxl", "core_kwargs": {"window": 4}},
}


def double_core(**settings: Any) -> Any:
    """A core in float64 whose outputs visibly depend on everything."""
    th.manual_seed(0)
    core = make_core(ElmurConfig(**(SMALL | settings))).double().eval()
    for parameter in core.parameters():
        th.nn.init.normal_(parameter, std=0.4)
    return core


def largest_difference(left: Any, right: Any) -> float:
    """Between two states of the same structure."""
    pairs = zip(named_tensors(left), named_tensors(right), strict=True)
    return max(((one - other).abs().max().item() for (_, one), (_, other) in pairs if one.numel()), default=0.0)


@pytest.mark.parametrize("name", CORES)
@th.no_grad()
def test_the_exported_step_is_the_cores_step(name: str) -> None:
    core = double_core(**CORES[name])
    step, state = CoreStep(core), core.initial_state(3)
    named = {key: th.full_like(tensor, 7) for key, tensor in step.initial_state(3).items()}  # any will do
    for t in range(40):
        x = th.randn(3, core.config.d_model, dtype=th.float64)
        starts = th.rand(3) < (0.08 if t else 2.0)
        y, state = core.step(x, state, starts)
        exported, named = step(x, starts, named)
        th.testing.assert_close(exported, y, rtol=0.0, atol=1e-12)
    assert th.equal(named["memory.position"], state.memory.position)
    assert th.equal(named["memory.anchors"], state.memory.anchors)
    th.testing.assert_close(named["memory.slots"], state.memory.slots, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("complete", [[True, False, True], [False] * 3, [True] * 3], ids=str)
@th.no_grad()
def test_a_choice_for_every_row_writes_what_writing_some_rows_does(complete: list[bool]) -> None:
    core: Elmur = double_core()
    state: Any = core.initial_state(3)
    for _ in range(2 * core.segment_length):
        _, state = core.step(th.randn(3, 8, dtype=th.float64), state, th.zeros(3, dtype=th.bool))
    rows = th.tensor(complete).nonzero().squeeze(1)
    expected = core.write_step(state, rows, inplace=False) if len(rows) else state
    assert largest_difference(write_complete(core, state, th.tensor(complete)), expected) < 1e-12


def test_states_are_named_by_their_fields() -> None:
    names = CoreStep(double_core()).initial_state(2)
    assert {"memory.slots", "memory.anchors", "memory.position", "outputs", "caches.1.slot_keys"} <= names.keys()
    assert names["memory.anchors"].dtype == names["memory.position"].dtype == th.int64


class ForeignState(NamedTuple):
    """A state of somebody else's core."""

    memory: Memory
    extra: Any


def foreign_core(extra: Any) -> MemoryCore:
    """A core of which nothing but the initial state is used."""
    core = double_core(core="gru")
    initial = core.initial_memory

    def initial_state(batch: int) -> ForeignState:
        return ForeignState(initial(batch), extra(batch))

    core.initial_state = initial_state
    return core


@pytest.mark.parametrize(
    ("extra", "message"),
    [(lambda batch: {"h": th.zeros(batch)}, "extra.*dict"), (lambda batch: th.zeros(4, batch), r"extra.*\(4, 2\)")],
    ids=["a dictionary", "rows that are not first"],
)
def test_a_state_that_cannot_be_named_is_refused(extra: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        CoreStep(foreign_core(extra))


def test_tensors_without_rows_are_constants() -> None:
    step = CoreStep(foreign_core(lambda batch: (th.ones(4), th.zeros(batch, 2))))
    assert {name for name in step.initial_state(5) if name.startswith("extra")} == {"extra.1"}
    assert isinstance(step.constants["extra.0"], Tensor)

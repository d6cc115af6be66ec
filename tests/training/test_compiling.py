"""Compiled steps of rollouts: when there are any, and that they change no numbers."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th

from helpers import SMALL, random_envs
from sb3_elmur import ElmurPolicy, RecurrentPPO, ppo
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.training.compiling import LONG, compile_rollouts


def make_model(**elmur: Any) -> RecurrentPPO:
    return RecurrentPPO("ElmurPolicy", random_envs(2), n_steps=8, batch_size=8, policy_kwargs=SMALL | elmur, seed=0)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows for which a step is compiled, instead of which nothing happens."""
    batches: list[int] = []
    monkeypatch.setattr(Elmur, "compile_rollout_step", lambda self, batch: batches.append(batch))
    return batches


def test_short_training_compiles_nothing(compiled: list[int]) -> None:
    make_model().learn(16)
    assert not compiled


def test_steps_are_compiled_from_where_it_pays(compiled: list[int]) -> None:
    lines: list[str] = []
    policy = make_model().policy
    compile_rollouts(policy, 2, 2 * LONG - 1, lines.append)
    assert (compiled, lines) == ([], [])
    compile_rollouts(policy, 2, 2 * LONG, lines.append)
    assert compiled == [2]
    assert len(lines) == 1


def test_a_process_of_two_compiles_for_its_own_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    class ReachedError(Exception):
        pass

    def stop(policy: ElmurPolicy, n_envs: int, total_timesteps: int, say: Callable[[str], None]) -> None:
        raise ReachedError(n_envs, total_timesteps)

    group = SimpleNamespace(size=2, rank=0, from_first=lambda compute: compute())
    monkeypatch.setattr(ppo, "learning_jointly", lambda model: nullcontext(group))
    monkeypatch.setattr(ppo, "compile_rollouts", stop)
    with pytest.raises(ReachedError) as reached:
        make_model().learn(64)
    assert reached.value.args == (2, 32)


@pytest.mark.parametrize("arguments", [{"compile": False}, {"core": "gru"}], ids=str)
def test_what_was_chosen_otherwise_stays(arguments: dict[str, Any], compiled: list[int]) -> None:
    lines: list[str] = []
    compile_rollouts(make_model(**arguments).policy, 2, 2 * LONG, lines.append)
    assert (compiled, lines) == ([], [])


def test_without_a_compiler_one_line_says_so(compiled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setenv("CXX", "no-such-compiler")
    compile_rollouts(make_model().policy, 2, 2 * LONG, lines.append)
    assert not compiled
    assert len(lines) == 1
    assert "CXX" in lines[0]


def test_where_compiling_fails_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            raise RuntimeError("no Python.h\nand more")

        return run

    lines: list[str] = []
    model = make_model()
    monkeypatch.setattr(th, "compile", fail)
    compile_rollouts(model.policy, 2, 2 * LONG, lines.append)
    assert lines[1:] == ["Steps are not compiled: no Python.h"]
    model.learn(16)


@pytest.mark.slow
def test_compiled_rollouts_are_eager_ones() -> None:
    rollouts = []
    for n_steps in (0, 2 * LONG):
        model = make_model()
        compile_rollouts(model.policy, 2, n_steps, print)
        model.learn(16)  # one rollout, of several segments and episodes
        rollouts.append(model.rollout_buffer)
    eager, compiled = rollouts
    np.testing.assert_array_equal(compiled.actions, eager.actions)
    np.testing.assert_allclose(compiled.values, eager.values, atol=1e-5)
    np.testing.assert_allclose(compiled.log_probs, eager.log_probs, atol=1e-5)

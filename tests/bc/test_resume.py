"""Determinism, checkpoints and interruptions: a run that was killed ends as if it had not been."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

import sb3_elmur
from cloning_helpers import DROPOUT, LENGTHS, dumped, equal, make_bc, parameters
from helpers import ACTION_SPACES
from sb3_elmur.bc.trainer import BC, BEST_MODEL, CHECKPOINT

pytestmark = pytest.mark.xdist_group("resume")


def test_same_seed_same_parameters() -> None:
    def trained(seed: int) -> th.Tensor:
        trainer = make_bc(model={"seed": seed}, policy_kwargs=DROPOUT)
        trainer.train()
        return parameters(trainer)

    first = trained(0)
    th.rand(7), np.random.rand(7)
    assert th.equal(trained(0), first)
    assert not th.equal(trained(1), first)


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


def kill_at(owner: Any, name: str, call: int) -> None:
    """Let the given call of a method die when half of its work is done."""
    method, calls = getattr(owner, name), []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        result = method(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        return result

    setattr(owner, name, dying)


def interruptible() -> BC:
    return make_bc(ACTION_SPACES[1], evaluate=True, n_epochs=3, n_eval_episodes=2, save_freq=2, policy_kwargs=DROPOUT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[BC, list[dict[str, Any]], Path]:
    """A trainer that was not interrupted, what it logged, and its folder."""
    trainer, folder = interruptible(), tmp_path_factory.mktemp("whole")
    return trainer, dumped(trainer, folder), folder


@pytest.mark.parametrize(
    ("place", "call"), [("_update", 4), ("_update", 13), ("_evaluate", 2), ("_log", 1), ("_state", 3), ("_fit_spread", 1)]
)
def test_resuming_gives_what_an_uninterrupted_run_gives(
    tmp_path: Path, whole: tuple[BC, list[dict[str, Any]], Path], place: str, call: int
) -> None:
    """Bit for bit: weights, optimiser, running sums, the best reward and the best model; checkpoints fall within epochs."""
    uninterrupted, logged, folder = whole
    killed, resumed = interruptible(), interruptible()
    kill_at(killed, place, call)
    with pytest.raises(Killed):
        killed.train(tmp_path)
    relogged = dumped(resumed, tmp_path)
    assert equal(resumed._state(), uninterrupted._state())
    assert relogged
    for row, expected in zip(reversed(relogged), reversed(logged), strict=False):
        assert {**row, "time/seconds_per_batch": 0} == {**expected, "time/seconds_per_batch": 0}
    best = [dict(sb3_elmur.RecurrentPPO.load(run / BEST_MODEL).policy.state_dict()) for run in (folder, tmp_path)]
    assert equal(*best)
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, BEST_MODEL}


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    trainer, again = make_bc(), make_bc()
    trainer.train(tmp_path)
    again.train(tmp_path)
    assert equal(again._state(), trainer._state())


def damaged(trainer: BC, kind: str) -> Any:
    state = copy.deepcopy(trainer._state())
    if kind == "no optimiser":
        del state["optimizer"]
    elif kind == "no progress":
        del state["progress"]["best_reward"]
    elif kind == "other shape":
        state["policy"]["action_net.weight"] = th.zeros(9, 9)
    elif kind == "missing weights":
        del state["policy"]["value_net.bias"]
    elif kind == "other optimiser":
        state["optimizer"]["param_groups"] *= 2
    return state


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint",
        3,
        [1, 2],
        th.zeros(3),
        {"run": 1},
        {"policy": {}},
        *("no optimiser", "no progress", "other shape", "missing weights", "other optimiser"),
    ],
    ids=lambda content: str(content)[:20],
)
def test_a_foreign_checkpoint_is_refused_as_a_whole(tmp_path: Path, content: Any) -> None:
    path = tmp_path / CHECKPOINT
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        other = make_bc()
        for _ in range(2):
            other.train_batch()
        th.save(damaged(other, content) if isinstance(content, str) else content, path)
    trainer = make_bc()
    trainer.train_batch()
    before = copy.deepcopy(trainer._state())
    with pytest.raises(ValueError, match=CHECKPOINT) as error:
        trainer.train(tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert equal(trainer._state(), before)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    trainer = make_bc(n_epochs=1)
    trainer.train(tmp_path)
    content = (tmp_path / CHECKPOINT).read_bytes()
    before = copy.deepcopy(trainer._state())
    for kept in (0, 1, 30, len(content) // 2, len(content) - 100, len(content) - 1):
        (tmp_path / CHECKPOINT).write_bytes(content[:kept])
        with pytest.raises(ValueError, match=f"{CHECKPOINT} is not a checkpoint of this policy"):
            trainer.train(tmp_path)
        assert equal(trainer._state(), before)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"learning_rate": 1e-3}, "learning_rate=0.001"),
        ({"n_epochs": 5}, "n_epochs=5"),
        ({"model": {"seed": 3}}, "seed=3"),
        ({"lengths": [*LENGTHS, 2]}, "episodes=11, steps=87"),
        ({"lengths": [*LENGTHS[:-1], 6]}, "steps=89"),
        ({"policy_kwargs": {"segment_length": 5}}, "segment_length=5"),
        ({"policy_kwargs": {"d_model": 4}}, "d_model=4"),
    ],
    ids=str,
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path, other: dict, named: str) -> None:
    make_bc(**other).train(tmp_path)
    trainer = make_bc()
    before = copy.deepcopy(trainer._state())
    with pytest.raises(ValueError, match=rf"{CHECKPOINT} is the checkpoint of a run with {named}\."):
        trainer.train(tmp_path)
    assert equal(trainer._state(), before)


def test_what_is_not_finite_stops_training_before_it_is_saved(tmp_path: Path) -> None:
    trainer = make_bc(ACTION_SPACES[1], n_epochs=3, save_freq=1)
    update = trainer._update
    kill_at(trainer, "_update", 10**9)

    def explode(*arguments: Any) -> Any:
        if trainer.batches_done == 4:
            with th.no_grad():
                trainer.policy.action_net.bias.fill_(1e30)
        return update(*arguments)

    trainer._update = explode
    with pytest.raises(FloatingPointError, match=r"not finite in batch 5\. Lower `learning_rate`\. Received 0\.01\."):
        trainer.train(tmp_path)
    again = make_bc(ACTION_SPACES[1], n_epochs=3, save_freq=1)
    again.train(tmp_path)
    assert parameters(again).isfinite().all()

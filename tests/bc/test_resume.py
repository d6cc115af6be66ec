"""Determinism, checkpoints and interruptions: a run that was killed ends as if it had not been."""

import copy
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from torch import nn

import sb3_elmur
from cloning_helpers import DROPOUT, LENGTHS, dumped, equal, make_bc, parameters, train_until
from helpers import ACTION_SPACES
from sb3_elmur.bc.trainer import BC, BEST_MODEL, CHECKPOINT
from sb3_elmur.core.cells import GRU

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


def interruptible() -> BC:
    return make_bc(ACTION_SPACES[1], evaluate=True, n_epochs=3, n_eval_episodes=2, save_freq=2, policy_kwargs=DROPOUT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[BC, list[dict[str, Any]], Path]:
    """A trainer that was not interrupted, what it logged, and its folder."""
    trainer, folder = interruptible(), tmp_path_factory.mktemp("whole")
    return trainer, dumped(trainer, folder), folder


EVENTS: dict[str, Callable[[BC], tuple[Any, str]]] = {
    "update": lambda trainer: (trainer.optimizer, "step"),
    "step of an evaluation": lambda trainer: (trainer.eval_env, "step"),
    "line of the log": lambda trainer: (trainer.model.logger, "record"),
    "best model": lambda trainer: (trainer.model, "save"),
    "file": lambda trainer: (os, "replace"),
}


@pytest.mark.parametrize(
    ("event", "call"),
    [("update", 4), ("update", 13), ("step of an evaluation", 9), ("line of the log", 14), ("best model", 1), ("file", 4)],
)
def test_resuming_gives_what_an_uninterrupted_run_gives(
    tmp_path: Path, whole: tuple[BC, list[dict[str, Any]], Path], event: str, call: int
) -> None:
    """Bit for bit: weights, optimiser, running sums, the best score and the best model; checkpoints fall within epochs."""
    uninterrupted, logged, folder = whole
    killed, resumed = interruptible(), interruptible()
    train_until(killed, tmp_path, *EVENTS[event](killed), call)
    relogged = dumped(resumed, tmp_path)
    assert equal(resumed._state(), uninterrupted._state())
    assert relogged
    for row, expected in zip(reversed(relogged), reversed(logged), strict=False):
        assert {**row, "time/seconds_per_batch": 0} == {**expected, "time/seconds_per_batch": 0}
    best = [dict(sb3_elmur.RecurrentPPO.load(run / BEST_MODEL).policy.state_dict()) for run in (folder, tmp_path)]
    assert equal(*best)
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, BEST_MODEL}


def test_a_run_whose_core_is_a_class_can_be_resumed(tmp_path: Path) -> None:
    trainer, again = (make_bc(policy_kwargs={"core": GRU}) for _ in range(2))
    trainer.train(tmp_path)
    again.train(tmp_path)
    assert equal(again._state(), trainer._state())


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
        del state["progress"]["best_score"]
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
        with pytest.raises(ValueError, match=f"{CHECKPOINT} .*policy"):
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
    with pytest.raises(ValueError, match=rf"{CHECKPOINT} .*{named}"):
        trainer.train(tmp_path)
    assert equal(trainer._state(), before)


@pytest.mark.parametrize("explodes", ["the loss", "weights in the last update"])
def test_what_is_not_finite_stops_training_before_it_is_saved(tmp_path: Path, explodes: str) -> None:
    trainer = make_bc(ACTION_SPACES[1], n_epochs=2, save_freq=1, evaluate=True)
    bias = trainer.policy.action_net.bias
    n_batches = trainer.total_batches if explodes != "the loss" else 4

    def explode(*_: Any) -> None:
        if trainer.batches_done == n_batches - 1:
            with th.no_grad():
                bias.fill_(1e30 if explodes == "the loss" else float("nan"))

    if explodes == "the loss":
        trainer.optimizer.register_step_pre_hook(lambda *_: None)
        trainer.chain_loss.register_forward_pre_hook(explode)
    else:
        trainer.optimizer.register_step_post_hook(explode)
    with pytest.raises(FloatingPointError, match=rf"not finite in batch {n_batches}\..*0\.01"):
        trainer.train(tmp_path)
    best = sb3_elmur.RecurrentPPO.load(tmp_path / BEST_MODEL)
    assert nn.utils.parameters_to_vector(best.policy.parameters()).isfinite().all()
    again = make_bc(ACTION_SPACES[1], n_epochs=2, save_freq=1, evaluate=True)
    again.train(tmp_path)
    assert parameters(again).isfinite().all()


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    trainer = make_bc(n_epochs=1)
    trainer.train(tmp_path)
    content = bytearray((tmp_path / CHECKPOINT).read_bytes())
    before = copy.deepcopy(trainer._state())
    place = bytes(content).index(trainer.policy.action_net.weight.detach().numpy().tobytes())
    content[place] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(ValueError, match=CHECKPOINT):
        trainer.train(tmp_path)
    assert equal(trainer._state(), before)


def other_data(trainer: BC) -> None:
    trainer.episodes.made[3].actions[0] += 1


def other_observations(trainer: BC) -> None:
    for episode in trainer.episodes.made:
        episode.observations[:] *= 2  # as a normalisation would


@pytest.mark.parametrize("change", [other_data, other_observations])
def test_another_data_set_of_equal_counts_is_refused(tmp_path: Path, change: Callable[[BC], None]) -> None:
    make_bc().train(tmp_path)
    trainer = make_bc()
    change(trainer)
    with pytest.raises(ValueError, match="data="):
        trainer.train(tmp_path)


def test_another_activation_is_refused(tmp_path: Path) -> None:
    make_bc(policy_kwargs={"net_arch": [5]}).train(tmp_path)
    with pytest.raises(ValueError, match="activation_fn=None"):
        make_bc(policy_kwargs={"net_arch": [5], "activation_fn": nn.ELU}).train(tmp_path)


def _flatten_moments(state: dict[str, Any]) -> None:
    for moments in state["optimizer"]["state"].values():
        moments["exp_avg"] = moments["exp_avg_sq"] = th.zeros(1)


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "moments of other shapes": _flatten_moments,
    "no moments": lambda state: state["optimizer"]["state"].clear(),
    "other betas": lambda state: state["optimizer"]["param_groups"][0].update(betas=(0.1, 0.2)),
    "another weight decay": lambda state: state["optimizer"]["param_groups"][0].update(weight_decay=0.5),
    "too many batches": lambda state: state["progress"].update(batches_done=99),
    "fewer than no batches": lambda state: state["progress"].update(batches_done=-1),
    "batches of text": lambda state: state["progress"].update(batches_done="2"),
    "no sums": lambda state: state["progress"].update(epoch_sums=None),
    "sums of another shape": lambda state: state["progress"].update(epoch_sums=th.zeros(2, 9, dtype=th.float64)),
    "a score that is none": lambda state: state["progress"].update(best_score=math.nan),
    "another run": lambda state: state["run"].clear(),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_checkpoint_is_refused_and_nothing_restored(edit: str, tmp_path: Path) -> None:
    killed, resumed = make_bc(save_freq=1), make_bc(save_freq=1)
    train_until(killed, tmp_path, killed.optimizer, "step", 8)
    state = th.load(tmp_path / CHECKPOINT)
    EDITS[edit](state)
    th.save(state, tmp_path / CHECKPOINT)
    before = parameters(resumed).clone()
    with pytest.raises(ValueError, match=r"is not a checkpoint of this policy|is the checkpoint of a run with"):
        resumed.train(tmp_path)
    assert th.equal(parameters(resumed), before)
    assert resumed.batches_done == 0

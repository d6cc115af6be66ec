"""Behaviour cloning: loss and gradients, determinism, resuming, processes together, fine-tuning, and the command line."""

import contextlib
import copy
import importlib.resources
import multiprocessing
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch as th
import yaml
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import distributed as dist
from torch import nn

import sb3_elmur
from cloning_helpers import LENGTHS, make_bc
from helpers import ACTION_SPACES, DICT, IMAGE, VECTOR, make_model, random_envs
from sb3_elmur.bc.command import main, parse, read_settings
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.distributed import Group, join_group
from sb3_elmur.bc.loss import SMALLEST_STD
from sb3_elmur.bc.trainer import BC, BEST_MODEL, CHECKPOINT
from sb3_elmur.envs import TMazeEnv

MOE = {"ffn": "moe", "n_routed_experts": 3, "n_shared_experts": 1, "top_k": 2, "aux_loss_coef": 0.5}
DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1, "memory_dropout": 0.1}


def parameters(trainer: BC) -> th.Tensor:
    return th.cat([parameter.detach().flatten() for parameter in trainer.policy.parameters()])


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, whatever is nested in what."""
    if isinstance(a, th.Tensor):
        return a.dtype == b.dtype and th.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def watch_gradients(trainer: BC) -> list[list[th.Tensor]]:
    """The gradients of every update to come, as the optimiser sees them."""
    seen: list[list[th.Tensor]] = []
    trainer.optimizer.register_step_pre_hook(lambda *_: seen.append([p.grad.clone() for p in trainer.parameters]))
    return seen


def watch_step_losses(trainer: BC) -> list[th.Tensor]:
    """The loss of every step of every update to come, (R,) each."""
    seen: list[th.Tensor] = []
    cloning_loss: Any = trainer.chain_loss.cloning_loss
    loss = cloning_loss.loss

    def watched(outputs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        seen.append(loss(outputs, actions))
        return seen[-1]

    cloning_loss.loss = watched
    return seen


def by_episode(trainer: BC, updates: list[th.Tensor], lengths: list[int]) -> dict[int, np.ndarray]:
    """Losses of one batch, that of the given lengths, by the episode's length, in the order of time."""
    found: dict[int, list[float]] = {length: [] for length in lengths}
    for update, losses in enumerate(updates):
        remaining = losses.tolist()
        for segment in range(trainer.config.bptt_segments):
            start = update * trainer.chain_length + segment * trainer.segment_length
            for length in sorted(lengths, reverse=True):
                n = max(0, min(length - start, trainer.segment_length))
                found[length] += remaining[:n]
                del remaining[:n]
        assert not remaining
    return {length: np.array(losses) for length, losses in found.items()}


def slow_loss(policy: Any, outputs: th.Tensor, action: np.ndarray, smoothing: float) -> th.Tensor:
    """Loss of one step from the textbook; outputs (n,)."""
    space = policy.action_space
    if isinstance(space, spaces.Box):
        target = th.as_tensor(policy.scale_action(action) if policy.squash_output else action)
        return ((outputs.tanh() if policy.squash_output else outputs) - target).pow(2).mean()
    if isinstance(space, spaces.MultiBinary):
        target = th.as_tensor(action, dtype=th.float32) * (1 - smoothing) + smoothing / 2
        return -(target * outputs.sigmoid().log() + (1 - target) * (1 - outputs.sigmoid()).log()).sum()
    sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else space.nvec.tolist()
    total = th.zeros(())
    for logits, choice, n in zip(outputs.split(sizes), np.atleast_1d(action), sizes, strict=True):
        target = th.full((n,), smoothing / n)
        target[choice] += 1 - smoothing
        total = total - (target * logits.softmax(0).log()).sum()
    return total


def slow_chains(trainer: BC, smoothing: float) -> list[list[th.Tensor]]:
    """Losses of the data set's steps, chain by chain: each episode alone, one step after another, with cached keys."""
    policy, core = trainer.policy, trainer.policy.backbone.core
    longest = max(map(len, trainer.episodes.made))
    chains: list[list[th.Tensor]] = [[] for _ in range(0, longest, trainer.chain_length)]
    no_start, no_tokens = th.zeros(1, dtype=th.bool), th.zeros(1, 0, core.config.d_model)
    for episode in trainer.episodes.made:
        memory = policy.initial_memories(1)[0]
        for t in range(len(episode)):
            if t % trainer.chain_length == 0:
                memory = memory._replace(slots=memory.slots.detach())
                state = core.open_segment(no_tokens, memory)
            features = policy.extract_features(policy.obs_to_tensor(episode.observations[t : t + 1])[0])
            latent, state = policy.backbone.step(features, state, no_start)
            memory = state.memory
            outputs = policy.action_net(policy.mlp_extractor.forward_actor(latent))[0]
            chains[t // trainer.chain_length].append(slow_loss(policy, outputs, episode.actions[t], smoothing))
    return chains


# Loss and gradients


@settings(max_examples=10, deadline=None)
@given(
    action_space=st.sampled_from(ACTION_SPACES),
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=5),
    segment_length=st.integers(1, 5),
    bptt_segments=st.sampled_from([1, 2, 20]),
    smoothing=st.sampled_from([0.0, 0.3]),
    policy_kwargs=st.sampled_from(
        [
            {},
            {"blend": "gated"},
            {"core": "lstm"},
            {"net_arch": [5]},
            {"norm_first": True, "memory_size": 1},
            {**MOE, "aux_loss_coef": 0.0},
        ]
    ),
)
def test_a_batchs_losses_and_gradients_are_those_of_its_episodes_alone_step_by_step(
    action_space: spaces.Space, lengths: list[int], segment_length: int, bptt_segments: int, smoothing: float,
    policy_kwargs: dict,
) -> None:  # fmt: skip
    trainer = make_bc(
        action_space, lengths=lengths, policy_kwargs={"segment_length": segment_length, **policy_kwargs}, learning_rate=0.0,
        batch_size=len(lengths), bptt_segments=bptt_segments, label_smoothing=smoothing, max_grad_norm=1e9,
    )  # fmt: skip
    gradients, losses = watch_gradients(trainer), watch_step_losses(trainer)
    trainer.train_batch()
    expected = slow_chains(trainer, smoothing)
    assert len(expected) == len(losses) == trainer.updates
    assert trainer.steps == sum(lengths)
    for theirs, ours, slow in zip(gradients, losses, expected, strict=True):
        th.testing.assert_close(ours.sort()[0], th.stack(slow).sort()[0], rtol=1e-4, atol=1e-5)
        trainer.optimizer.zero_grad()
        th.stack(slow).mean().backward()
        largest = max(gradient.abs().max().item() for gradient in theirs)
        for gradient, parameter in zip(theirs, trainer.parameters, strict=True):
            slow_gradient = th.zeros_like(parameter) if parameter.grad is None else parameter.grad
            th.testing.assert_close(gradient, slow_gradient, rtol=1e-3, atol=1e-5 * max(1.0, largest))


def test_squashed_actions_are_compared_where_the_policy_acts() -> None:
    kwargs = {"model": {"use_sde": True}, "policy_kwargs": {"squash_output": True}}
    trainer = make_bc(ACTION_SPACES[1], lengths=[5, 9], learning_rate=0.0, **kwargs)
    losses = watch_step_losses(trainer)
    trainer.train_batch()
    expected = [loss for chain in slow_chains(trainer, 0.0) for loss in chain]
    th.testing.assert_close(th.cat(losses).sort()[0], th.stack(expected).sort()[0])


def test_other_episodes_do_not_matter() -> None:
    """Neither their contents, bit for bit, nor, to rounding, whether they are there."""

    def losses(lengths: list[int], poisoned: bool = False) -> dict[int, np.ndarray]:
        trainer = make_bc(lengths=LENGTHS, batch_size=len(lengths), learning_rate=0.0)
        made = [episode for episode in trainer.episodes.made if len(episode) in lengths]
        trainer.episodes.made, trainer.episodes.lengths = made, np.array([len(episode) for episode in made])
        if poisoned:
            for episode in made:
                if len(episode) != 14:
                    episode.observations[:] = 1e6 * (-1) ** len(episode)
        seen = watch_step_losses(trainer)
        trainer.train_batch()
        return by_episode(trainer, seen, lengths)

    expected = losses(LENGTHS)
    poisoned = losses(LENGTHS, poisoned=True)
    np.testing.assert_array_equal(poisoned[14], expected[14])
    assert not np.array_equal(poisoned[22], expected[22])
    for lengths in ([14], [22, 14], [3, 14, 1]):
        found = losses(lengths)
        for length in lengths:
            np.testing.assert_allclose(found[length], expected[length], rtol=1e-4, atol=1e-6)


def test_an_epoch_trains_on_every_step_once_in_an_order_of_its_own() -> None:
    trainer = make_bc(n_epochs=2)
    orders = []
    for _ in range(2):
        asked: list[int] = []
        load = trainer.episodes._load
        trainer.episodes._load = lambda index, asked=asked, load=load: (asked.append(index), load(index))[1]
        for _ in range(trainer.batches_per_epoch):
            trainer.train_batch()
        orders.append(asked)
        trainer.episodes._load = load
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(LENGTHS)))
    assert orders[0] != orders[1]
    assert trainer.steps == 2 * sum(LENGTHS)
    assert trainer.batches_done == trainer.total_batches == 6


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [4], [8, 8], [300, 1]], ids=str)
def test_odd_data_sets_train(lengths: list[int]) -> None:
    """Also a single update is one, with a batch larger than the data set."""
    trainer = make_bc(lengths=lengths, n_epochs=1, batch_size=100)
    before = parameters(trainer)
    trainer.train()
    assert trainer.updates == -(-max(lengths) // 8)
    assert parameters(trainer).isfinite().all()
    assert not th.equal(parameters(trainer), before)


def test_a_learning_rate_of_zero_changes_nothing() -> None:
    trainer = make_bc(learning_rate=0.0, weight_decay=1.0)
    before = parameters(trainer)
    trainer.train()
    assert th.equal(parameters(trainer), before)


def test_cloning_lowers_the_loss() -> None:
    """Where the action is the first observation's sign, which is seen in the first step only."""

    def expert(obs: np.ndarray) -> np.ndarray:
        obs[1:, 0] = 0.0
        return np.full(len(obs), int(obs[0, 0] > 0))

    trainer = make_bc(spaces.Discrete(2), lengths=[7, 9, 11] * 8, expert=expert, n_epochs=25, batch_size=8, bptt_segments=3)
    trainer.train()
    assert trainer.model.logger.name_to_value == {}  # dumped
    steps, loss = trainer.epoch_sums[3:5].tolist()
    assert loss / steps < 0.05


# Optimiser


def test_learning_rate_warms_up_linearly_and_decays_as_a_cosine() -> None:
    trainer = make_bc(n_epochs=100, warmup=0.25)  # 300 batches
    rates = []
    for batch in range(trainer.total_batches):
        trainer.batches_done = batch
        rates.append(trainer._learning_rate())
    np.testing.assert_allclose(np.diff(rates[:75]), 1e-2 / 75)
    decay = np.array(rates[75:])
    np.testing.assert_allclose(decay + decay[::-1], 1e-2)
    assert (np.diff(decay) < 0).all()
    assert decay[0] == pytest.approx(1e-2, rel=1e-3)
    assert 0 < decay[-1] < 1e-5 > rates[0] - 1e-4
    trainer.train_batch()
    assert trainer.optimizer.param_groups[0]["lr"] == rates[-1]


def test_gradients_are_clipped_to_their_norm() -> None:
    free, clipped = make_bc(max_grad_norm=1e9), make_bc(max_grad_norm=0.01)
    seen = [watch_gradients(free), watch_gradients(clipped)]
    for trainer in (free, clipped):
        trainer.train_batch()
    whole, short = (th.cat([gradient.flatten() for gradient in gradients[0]]) for gradients in seen)
    assert whole.norm() > 0.1
    th.testing.assert_close(short, whole * 0.01 / whole.norm())
    assert free.epoch_sums[1] > 0.1  # what is logged is the norm before
    assert clipped.epoch_sums[1] > 0.1


def test_weight_decay_shrinks_what_is_trained() -> None:
    def trained(weight_decay: float) -> BC:
        trainer = make_bc(lengths=[8], n_epochs=1, weight_decay=weight_decay)
        trainer.train_batch()
        return trainer

    start, plain, decayed = make_bc(), trained(0.0), trained(2.0)
    rate = plain.optimizer.param_groups[0]["lr"]
    for a, b, c in zip(start.parameters, plain.parameters, decayed.parameters, strict=True):
        th.testing.assert_close(c, b - 2.0 * rate * a)
    assert th.equal(decayed.policy.value_net.weight, start.policy.value_net.weight)


def test_one_segment_per_chain_detaches_memory() -> None:
    write = "write.key_value"

    def gradient(bptt_segments: int) -> float:
        trainer = make_bc(bptt_segments=bptt_segments)
        seen = watch_gradients(trainer)
        trainer.train_batch()
        names = [name for name, p in trainer.policy.named_parameters() if any(p is q for q in trainer.parameters)]
        return max(g.abs().max().item() for g, name in zip(seen[0], names, strict=True) if write in name)

    assert gradient(1) == 0.0
    assert gradient(2) > 0.0


def test_load_balancing_reaches_the_gradient_and_the_log() -> None:
    def gradient(coefficient: float) -> th.Tensor:
        trainer = make_bc(policy_kwargs={**MOE, "aux_loss_coef": coefficient}, max_grad_norm=1e9)
        seen = watch_gradients(trainer)
        trainer.train_batch()
        return th.cat([gradient.flatten() for gradient in seen[0]])

    without, single, double = gradient(0.0), gradient(0.5), gradient(1.0)
    assert (single - without).abs().max() > 1e-4
    th.testing.assert_close(double - without, 2 * (single - without), rtol=1e-3, atol=1e-6)
    trainer = make_bc(policy_kwargs=MOE, n_epochs=1)
    logged = dumped(trainer)
    assert 0.9 < logged[0]["train/aux_loss"] < 3.0  # between balance and one expert for all (E / k = 3)
    assert "train/aux_loss" not in dumped(make_bc(n_epochs=1))[0]


def dumped(trainer: BC, folder: Path | None = None) -> list[dict[str, Any]]:
    """Train, and return what was logged at each time."""
    logger, rows = trainer.model.logger, []
    dump = logger.dump

    def note(step: int) -> None:
        rows.append({**logger.name_to_value, "step": step})
        dump(step)

    logger.dump = note
    trainer.train(folder)
    return rows


def test_the_log_tells_the_means_over_an_epochs_steps() -> None:
    trainer = make_bc(learning_rate=0.0, n_epochs=2, batch_size=100, evaluate=True, eval_freq=2)
    losses = watch_step_losses(trainer)
    first, second = dumped(trainer)
    n_updates = 3  # chains of 8 steps
    assert first["train/loss"] == pytest.approx(th.cat(losses[:n_updates]).mean().item())
    assert second["train/loss"] == pytest.approx(first["train/loss"])
    assert first["step"] == n_updates
    assert second["step"] == 2 * n_updates
    assert second["time/steps"] == 2 * sum(LENGTHS)
    assert 0.0 <= first["train/accuracy"] <= 1.0
    assert "eval/mean_reward" not in first
    assert second["eval/mean_ep_length"] >= 1


def test_accuracy_and_squared_error_are_those_of_predict() -> None:
    for space in ACTION_SPACES:
        trainer = make_bc(space, lengths=[9, 3, 6], learning_rate=0.0, n_epochs=1)
        (row,) = dumped(trainer)
        right, errors = [], []
        for episode in trainer.episodes.made:
            state = None
            for t in range(len(episode)):
                action, state = trainer.model.predict(episode.observations[t], state, deterministic=True)
                right.append(np.all(action == episode.actions[t]))
                errors.append(np.square(action - episode.actions[t]).mean())
        if isinstance(space, spaces.Box):
            assert row["train/squared_error"] == pytest.approx(np.mean(errors), rel=1e-4)
        else:
            assert row["train/accuracy"] == pytest.approx(np.mean(right), rel=1e-6)
            assert 0 < np.mean(right) < 1


@pytest.mark.parametrize("policy_kwargs", [{}, MOE, {"blend": "gated"}, {"blend": "learned"}], ids=str)
def test_mixed_precision_is_close(policy_kwargs: dict) -> None:
    rows = []
    for mixed in (False, True):
        trainer = make_bc(mixed_precision=mixed, n_epochs=3, learning_rate=1e-3, policy_kwargs=policy_kwargs)
        rows.append([row["train/loss"] for row in dumped(trainer)])
        assert all(parameter.dtype == th.float32 for parameter in trainer.policy.parameters())
    assert rows[0] != rows[1]
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-2)


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 3], start=[0, 1])], ids=str)
def test_discrete_actions_must_begin_at_zero(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match=r"`action_space` must begin at 0\. Received"):
        make_bc(space)


def test_a_config_is_checked() -> None:
    for name, value in {
        "n_epochs": 0,
        "batch_size": 1.5,
        "warmup": 1.0,
        "learning_rate": "1e-3",
        "mixed_precision": 1,
    }.items():
        with pytest.raises(ValueError, match=rf"`{name}` must be .*\. Received {value!r}\."):
            BCConfig(**{name: value})


# Determinism, checkpoints and interruptions


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


# What it leaves for online training


@pytest.mark.parametrize(
    ("use_sde", "policy_kwargs"),
    [(False, {}), (True, {}), (True, {"full_std": False}), (True, {"squash_output": True})],
    ids=str,
)
def test_log_std_is_the_residuals(use_sde: bool, policy_kwargs: dict) -> None:
    rng, weight, noise = np.random.default_rng(0), np.array([[0.5, 0.0], [-0.2, 0.3], [0.1, 0.1]]), np.array([0.1, 0.3])

    def expert(obs: np.ndarray) -> np.ndarray:
        return (obs @ weight + noise * rng.normal(size=(len(obs), 2))).clip(-1, 1).astype(np.float32)

    trainer = make_bc(
        spaces.Box(-1, 1, (2,)), lengths=[17] * 40, expert=expert, model={"use_sde": use_sde},
        policy_kwargs=policy_kwargs, n_epochs=10, batch_size=8, bptt_segments=5,
    )  # fmt: skip
    trainer.train()
    policy = trainer.policy
    obs = np.stack([episode.observations for episode in trainer.episodes.made], axis=1)  # (T, B, 3)
    actions = np.stack([episode.actions for episode in trainer.episodes.made], axis=1)
    pair = tuple(th.zeros(1, 40, policy.lstm_actor.hidden_size) for _ in range(2))
    stds, residuals = [], []
    with th.no_grad():
        for t in range(17):
            starts = th.full((40,), float(t == 0))
            distribution, pair = policy.get_distribution(th.as_tensor(obs[t]), pair, starts)
            stds.append(distribution.distribution.stddev)
            residuals.append(distribution.mode() - th.as_tensor(actions[t]))
    std, residual = (th.cat(values).square().mean(0).sqrt() for values in (stds, residuals))
    if policy_kwargs.get("full_std", True):
        assert (residual > 0.9 * th.as_tensor(noise)).all()
        th.testing.assert_close(std, residual.to(std.dtype), rtol=0.1, atol=0.0)
    else:
        assert residual.min() < std.mean() < residual.max()
    assert isinstance(policy.action_dist, StateDependentNoiseDistribution) == use_sde


def test_log_std_has_a_floor() -> None:
    def expert(obs: np.ndarray) -> np.ndarray:
        return np.zeros((len(obs), 2), dtype=np.float32)

    trainer = make_bc(ACTION_SPACES[1], expert=expert, learning_rate=0.0)
    for parameter in trainer.policy.action_net.parameters():
        th.nn.init.zeros_(parameter)
    trainer.train()
    np.testing.assert_allclose(trainer.policy.log_std.exp().detach().numpy(), SMALLEST_STD, rtol=1e-6)


FINE_TUNED: dict[str, dict[str, Any]] = {
    **{type(space).__name__: {"action_space": space} for space in ACTION_SPACES},
    "Image": {"observation_space": IMAGE, "policy": "ElmurCnnPolicy"},
    "Dict": {"observation_space": DICT, "policy": "ElmurMultiInputPolicy", "action_space": ACTION_SPACES[1]},
    "separate": {"policy_kwargs": {"separate_critic": True, "share_features_extractor": False}},
    "gSDE": {"action_space": ACTION_SPACES[1], "model": {"use_sde": True}, "policy_kwargs": {"squash_output": True}},
    "net_arch": {"policy_kwargs": {"net_arch": {"pi": [7], "vf": [5]}}},
    "moe": {"policy_kwargs": MOE},
}


@pytest.mark.parametrize("settings", FINE_TUNED.values(), ids=FINE_TUNED.keys())
@pytest.mark.parametrize("cls", [sb3_elmur.RecurrentPPO, sb3_contrib.RecurrentPPO], ids=["ours", "host's"])
def test_a_cloned_policy_is_fine_tuned_online(tmp_path: Path, cls: Any, settings: dict[str, Any]) -> None:
    trainer = make_bc(**settings, lengths=[5, 9], n_epochs=1)
    start = parameters(trainer)
    trainer.train()
    assert not th.equal(parameters(trainer), start)
    trainer.save(tmp_path / "model")
    assert (tmp_path / "model.zip").is_file()
    env = random_envs(2, settings.get("observation_space", VECTOR), settings.get("action_space", ACTION_SPACES[0]))
    model = cls.load(tmp_path / "model", env=env)
    obs = env.reset()
    (expected, _), (found, _) = trainer.model.predict(obs, deterministic=True), model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(found, expected)
    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}
    model.learn(32)
    changed = {name for name, parameter in model.policy.named_parameters() if not th.equal(parameter, before[name])}
    assert {"action_net.weight", "value_net.weight", "backbone.embed.weight"} <= changed
    assert parameters(type("", (), {"policy": model.policy})).isfinite().all()


def test_only_the_actor_is_cloned() -> None:
    trainer = make_bc(policy_kwargs={"separate_critic": True, "share_features_extractor": False, "net_arch": [5]})
    before = {name: parameter.clone() for name, parameter in trainer.policy.named_parameters()}
    trainer.train()
    for name, parameter in trainer.policy.named_parameters():
        critics = name.startswith(("critic_backbone.", "vf_features_extractor.", "mlp_extractor.value_net.", "value_net."))
        assert th.equal(parameter, before[name]) == critics, name


def test_images_are_taken_as_the_environment_shows_them() -> None:
    """Channels last, which Stable-Baselines3 transposes, or channels first."""
    losses = []
    for space in (IMAGE, spaces.Box(0, 255, (3, 36, 36), np.uint8)):
        trainer = make_bc(observation_space=space, policy="ElmurCnnPolicy", lengths=[5, 2], learning_rate=0.0)
        rng = np.random.default_rng(0)
        for episode in trainer.episodes.made:
            images = rng.integers(256, size=(len(episode), 36, 36, 3))
            episode.observations[:] = images if space is IMAGE else images.transpose(0, 3, 1, 2)
            episode.actions[:] = rng.integers(3, size=len(episode))
        losses.append(watch_step_losses(trainer))
        trainer.train_batch()
    th.testing.assert_close(losses[0], losses[1])


# Several processes

TOGETHER: dict[str, dict[str, Any]] = {
    "moe": {"policy_kwargs": MOE, "save_freq": 1, "n_epochs": 2},
    "chosen experts": {"policy_kwargs": {**MOE, "n_routed_experts": 6}, "bptt_segments": 1},
    "box": {"action_space": ACTION_SPACES[1]},
    "last chain of one episode": {"lengths": [30, 5, 3, 2], "policy_kwargs": MOE},
    "batches of one episode": {"batch_size": 1, "lengths": [9, 14, 3], "policy_kwargs": MOE},
    "dict": {"observation_space": DICT, "policy": "ElmurMultiInputPolicy", "lengths": [9, 4, 2], "batch_size": 2},
    "separate": {"policy_kwargs": {"separate_critic": True, "share_features_extractor": False}},
}
for scenario in TOGETHER.values():
    scenario |= {"n_epochs": 1, "max_grad_norm": 0.1} | scenario


def curve(trainer: BC) -> list[float]:
    """Train, and return the loss of every batch."""
    losses = []
    for batch in range(trainer.total_batches):
        before = th.zeros(()) if batch % trainer.batches_per_epoch == 0 else trainer.epoch_sums
        trainer.train_batch()
        steps, loss = (trainer.epoch_sums - before)[3:5].tolist()
        losses.append(loss / steps)
    return losses


def learn_online() -> th.Tensor:
    """Parameters of a mixture of experts after an update from reward."""
    model = make_model(sb3_elmur.RecurrentPPO, random_envs(2), policy_kwargs=MOE)
    return th.nn.utils.parameters_to_vector(model.learn(32).policy.parameters()).detach()


def train_together(rank: int, size: int, port: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    th.set_num_threads(1)
    group, device = join_group("cpu")
    assert (group, device) == (Group(rank, size), "cpu")
    results = {}
    for name, scenario in TOGETHER.items():
        trainer = make_bc(**scenario)
        losses = curve(trainer)
        results[name] = {"losses": losses, "parameters": parameters(trainer), "sums": trainer.epoch_sums}
    own_folder = folder / f"of rank {rank}"  # as on two machines: the second one's stays empty
    for call in (8, 10**9):
        trainer = make_bc(**TOGETHER["moe"])
        kill_at(trainer, "_chains", call)
        with contextlib.suppress(Killed):
            trainer.train(own_folder)
    results["resumed"] = {"parameters": parameters(trainer)}
    with pytest.raises(ValueError, match="of a run with seed=0"):
        make_bc(**TOGETHER["moe"], model={"seed": 1}).train(own_folder)
    if rank == 0:
        results["online"] = {"parameters": learn_online()}
    th.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=train_together, args=(rank, 2, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [th.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_train_as_one(together: list[dict[str, Any]], name: str) -> None:
    trainer = make_bc(**TOGETHER[name])
    start = parameters(trainer)
    losses = curve(trainer)
    first, second = (results[name] for results in together)
    assert th.equal(first["parameters"], second["parameters"])
    assert first["losses"] == second["losses"]
    np.testing.assert_allclose(first["losses"], losses, rtol=0, atol=1e-5)
    moved = (parameters(trainer) - start).norm()
    assert (first["parameters"] - parameters(trainer)).norm() < 1e-3 * moved  # AdamW enlarges gradients that are rounding
    th.testing.assert_close(first["sums"], trainer.epoch_sums, rtol=1e-4, atol=1e-4)


def test_two_processes_resume_from_the_first_ones_checkpoint(together: list[dict[str, Any]]) -> None:
    for results in together:
        assert th.equal(results["resumed"]["parameters"], results["moe"]["parameters"])


def test_one_of_two_processes_trains_online_alone(together: list[dict[str, Any]]) -> None:
    assert th.equal(together[0]["online"]["parameters"], learn_online())


# Command line

ENV = "TMazePassive10-v0"
CONFIG: dict[str, Any] = {
    "policy_kwargs": {"d_model": 8, "n_heads": 2, "segment_length": 4, "memory_size": 1, "dropout": 0.1},
    "n_epochs": 3, "batch_size": 4, "n_eval_episodes": 2, "eval_freq": 1, "save_freq": 2,
}  # fmt: skip


PACKAGED = yaml.safe_load(importlib.resources.files("sb3_elmur.zoo_configs").joinpath("bc_elmur.yml").read_text())


@pytest.mark.parametrize("env_id", PACKAGED)
def test_every_key_of_the_settings_is_built(env_id: str) -> None:
    given = read_settings(parse(["--env", env_id, "--data", ""])[0])
    BCConfig(**{field.name: given[field.name] for field in fields(BCConfig) if field.name in given})
    try:
        model = sb3_elmur.RecurrentPPO(given["policy"], env_id, policy_kwargs=given["policy_kwargs"], device="cpu")
    except DependencyNotInstalled as error:
        pytest.skip(str(error))
    assert model.policy.config.segment_length == PACKAGED[env_id]["policy_kwargs"]["segment_length"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten episodes of an expert, for ``--data``; the hyper-parameters lie beside it."""
    folder = tmp_path / "data"
    folder.mkdir()
    env = TMazeEnv(length=10, corridor_length=(2, 8))
    for index in range(10):
        observations, actions = [env.reset(seed=index)[0]], []
        done = False
        while not done:
            actions.append(env.oracle_action())
            obs, _, done, _, _ = env.step(actions[-1])
            observations.append(obs)
        np.savez(folder / f"train_data_{index}.npz", observation=observations[:-1], action=actions)
    (tmp_path / "bc.yml").write_text(yaml.safe_dump({"default": CONFIG}))
    return folder


def command(data: Path, *more: str) -> list[str]:
    root = data.parent
    given = ["--env", ENV, "--data", str(data), "--conf-file", str(root / "bc.yml"), "-f", str(root / "logs")]
    return [*given, "--device", "cpu", *more]


def run_folder(data: Path, number: int = 1) -> Path:
    return data.parent / "logs" / "bc_elmur" / f"{ENV}_{number}"


def weights(run: Path) -> dict[str, th.Tensor]:
    return dict(sb3_elmur.RecurrentPPO.load(run / f"{ENV}.zip", device="cpu").policy.state_dict())


def test_the_command_trains_logs_and_saves(data: Path, capsys: pytest.CaptureFixture) -> None:
    logs = data.parent / "tensorboard"
    overrides = ["--learning-rate", "2e-3", "--policy-kwargs", "d_model:12", "dropout:0.0", "--env-kwargs", "reward:eased"]
    arguments = command(data, *overrides, "--mixed-precision", "--n-eval-envs", "2", "-tb", str(logs))
    main(arguments)
    run = run_folder(data)
    assert {path.name for path in run.iterdir()} == {ENV, f"{ENV}.zip", BEST_MODEL, CHECKPOINT}
    assert {path.name for path in (run / ENV).iterdir()} == {"config.yml", "args.yml", "command.txt"}
    config = yaml.safe_load((run / ENV / "config.yml").read_text())
    assert config["policy_kwargs"] == CONFIG["policy_kwargs"] | {"d_model": 12, "dropout": 0.0}
    assert config["env_kwargs"] == {"reward": "eased"}
    assert (config["learning_rate"], config["mixed_precision"], config["n_epochs"]) == (2e-3, True, 3)
    assert yaml.safe_load((run / ENV / "args.yml").read_text())["learning_rate"] == 2e-3
    recorded = (run / ENV / "command.txt").read_text()
    assert shlex.split(recorded) == ["python", "-m", "sb3_elmur.bc", *arguments]
    for name in (f"{ENV}.zip", BEST_MODEL):
        model = sb3_elmur.RecurrentPPO.load(run / name)
        assert model.policy.config.d_model == 12
        assert model.env is None
    output = capsys.readouterr()
    assert f"Saved {run / ENV}.zip" in output.out
    assert "train/" in output.out
    assert "9/9" in output.err
    assert "batch" in output.err
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    (events,) = logs.iterdir()
    accumulator = EventAccumulator(str(events)).Reload()
    for tag in (
        "train/loss",
        "train/accuracy",
        "train/grad_norm",
        "train/learning_rate",
        "eval/mean_reward",
        "eval/success_rate",
    ):
        assert len(accumulator.Scalars(tag)) == 3
    main([*arguments, "--no-progress"])
    assert capsys.readouterr().err == ""
    assert run_folder(data, 2).is_dir()
    assert equal(weights(run_folder(data, 2)), weights(run))


def test_the_command_takes_classes_by_their_dotted_paths(data: Path) -> None:
    path = "stable_baselines3.common.torch_layers.FlattenExtractor"
    main(command(data, "--policy-kwargs", f"features_extractor_class:{path}", "activation_fn:torch.nn.ELU", "net_arch:[4]"))
    run = run_folder(data)
    assert yaml.safe_load((run / ENV / "config.yml").read_text())["policy_kwargs"]["features_extractor_class"] == path
    policy = sb3_elmur.RecurrentPPO.load(run / f"{ENV}.zip", device="cpu").policy
    assert any(isinstance(module, nn.ELU) for module in policy.mlp_extractor.modules())
    with pytest.raises(SystemExit, match=r"error: `activation_fn` must be the dotted path of a class. Received 'ELU'."):
        main(command(data, "--policy-kwargs", "activation_fn:ELU"))


def test_a_killed_command_continues_to_the_same_model(data: Path) -> None:
    main(command(data, "--no-progress"))
    code = """
import os, signal, sys
from sb3_elmur.bc.trainer import BC
from sb3_elmur.bc.command import main
update, calls = BC._update, []
def dying(*arguments):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(*arguments)
BC._update = dying
main(sys.argv[1:])
"""
    killed = subprocess.run([sys.executable, "-c", code, *command(data)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    whole, run = run_folder(data), run_folder(data, 2)
    assert not (run / f"{ENV}.zip").exists()
    main(["--continue", str(run), "--no-progress"])
    assert equal(weights(run), weights(whole))
    assert (run / ENV / "config.yml").read_text() == (whole / ENV / "config.yml").read_text()
    assert not run_folder(data, 3).exists()


@pytest.mark.parametrize("batch", [0, 5])
def test_an_interrupt_says_how_to_continue(data: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Also before the first checkpoint."""
    train_batch = BC.train_batch

    def interrupted(trainer: BC) -> None:
        if trainer.batches_done == batch:
            raise KeyboardInterrupt
        train_batch(trainer)

    monkeypatch.setattr(BC, "train_batch", interrupted)
    with pytest.raises(SystemExit) as error:
        main(command(data, "--no-progress"))
    assert (run_folder(data) / CHECKPOINT).exists() == (batch > 0)
    text = str(error.value.code)
    assert text.startswith("Interrupted. To go on: python -m sb3_elmur.bc --continue ")
    monkeypatch.setattr(BC, "train_batch", train_batch)
    main([*shlex.split(text.split(": ")[1])[3:], "--no-progress"])
    main(command(data, "--no-progress"))
    assert equal(weights(run_folder(data)), weights(run_folder(data, 2)))


def test_continuing_with_other_settings_is_refused(data: Path) -> None:
    main(command(data, "--no-progress"))
    with pytest.raises(SystemExit, match=r"error: .*checkpoint.pt is the checkpoint of a run with learning_rate=0\.0003\."):
        main(["--continue", str(run_folder(data)), "--learning-rate", "1e-3"])
    config = yaml.safe_load((run_folder(data) / ENV / "config.yml").read_text())
    assert "learning_rate" not in config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "Nonsense-v0"], "Nonsense"),
        (["--data", "nowhere"], r"nowhere must be a folder with \.npz files\. Found none: it does not exist\."),
        (["--data", "minari:nowhere-v0"], "nowhere-v0"),
        (["--conf-file", "nowhere.yml"], "nowhere.yml"),
        (["--conf-file", "empty.yml"], r"empty\.yml must map names to values\. Received None\."),
        (["--conf-file", "broken.yml"], r"broken\.yml is not YAML: .*line 1"),
        (
            ["--conf-file", "key.yml"],
            r"key\.yml has the unknown hyper-parameter 'learning_rates'\. Known are policy, .*save_freq\.",
        ),
        (
            ["--conf-file", "other.yml"],
            rf"other\.yml has no settings for {ENV}, and no `default`.* CartPole-v1\.",
        ),
        (["--conf-file", "text.yml"], r"`learning_rate` must be a number in \[0, inf\)\. Received '1e-3'\."),
        (["--conf-file", "kwargs.yml"], r"`policy_kwargs` must map arguments to values\. Received 'dict\(d_model=8\)'\."),
        (["--policy-kwargs", "d_modell:8"], "ElmurPolicy has no argument `d_modell`. Did you mean `d_model`?"),
        (["--policy-kwargs", "d_model:7"], r"`d_model` must be divisible by `n_heads` \(2\)\. Received 7\."),
        (["--policy", "MlpLstmPolicy", "--conf-file", "plain.yml"], "`policy` must have a memory core"),
        (["--policy", "Nonsense"], "Policy Nonsense unknown"),
        (["--env-kwargs", "lenth:3"], "lenth"),
        (["--n-eval-envs", "0"], r"`n_eval_envs` must be an integer of at least 1\. Received 0\."),
        (["--batch-size", "0"], r"`batch_size` must be an integer of at least 1\. Received 0\."),
        (["--gym-packages", "no_such_package"], "no_such_package"),
        (["--continue", "nowhere"], r"`--continue` must be the folder of a run\. Received 'nowhere', without command\.txt\."),
        (["--log-folder", "plain.yml"], r"plain\.yml"),
        (["--env", "MountainCar-v0"], "`observation` must have the shape (T, 2)"),
        (["--seed", "-1"], "seed|Seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line(data: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(data.parent)
    configs = {
        "plain": {"default": {}},
        "other": {"CartPole-v1": {}},
        "key": {"default": {"learning_rates": 1.0}},
        "text": {"default": {"learning_rate": "1e-3"}},
        "kwargs": {"default": {"policy_kwargs": "dict(d_model=8)"}},
    }
    for name, config in configs.items():
        Path(f"{name}.yml").write_text(yaml.safe_dump(config))
    Path("empty.yml").touch()
    Path("broken.yml").write_text("default: [")
    with pytest.raises(SystemExit) as error:
        main(command(data, *arguments))
    text = str(error.value.code)
    assert text.startswith("error: ")
    assert re.search(message, text) or message in text
    assert text.count("\n") <= 5 * (arguments[0] == "--env")  # the data set's problems have lines of their own
    assert not (data.parent / "logs").exists()


def test_help_explains_every_option(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(BCConfig):
        assert f"--{field.name.replace('_', '-')} " in text.replace(",", " ")
    assert text.count("(default: ") == len(fields(BCConfig)) + 8
    assert "`" not in text.replace("`default`", "").replace("`torchrun -m sb3_elmur.bc`", "")


@pytest.mark.slow
def test_torchrun_trains_the_model_of_one_process(data: Path) -> None:
    without_dropout = command(data, "--policy-kwargs", "dropout:0.0")
    main([*without_dropout, "--no-progress"])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sb3_elmur.bc"]
    result = subprocess.run([*torchrun, *without_dropout], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for once in ("Using cpu device", "Run folder", "Saved"):
        assert result.stdout.count(once) == 1
    assert result.stderr.count("9/9") >= 1
    assert {path.name for path in run_folder(data).parent.iterdir()} == {f"{ENV}_1", f"{ENV}_2"}
    alone, together = weights(run_folder(data)), weights(run_folder(data, 2))
    for name, weight in alone.items():
        th.testing.assert_close(together[name], weight, rtol=0, atol=1e-4)
    failed = subprocess.run([*torchrun, *without_dropout, "--batch-size", "0"], capture_output=True, text=True)
    assert failed.returncode != 0
    assert "error: `batch_size` must be" in failed.stderr

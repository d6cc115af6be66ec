"""Properties of the native batches of POPGym's tasks."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from helpers import SMALL
from sb3_elmur import RecurrentPPO
from sb3_elmur.envs import POPGymEnv, POPGymVecEnv
from sb3_elmur.envs.popgym.tasks import LEVELS, TASKS
from sb3_elmur.envs.popgym.vec import BATCHED_TASKS, FAMILIES

batched_tasks = pytest.mark.parametrize("task", BATCHED_TASKS)


@pytest.fixture
def popgym() -> None:
    for name in ("popgym", "mazelib"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'sb3-elmur[popgym]'")


def swing_up(base: Any) -> np.ndarray:
    angle, speed = base.state
    near = np.cos(angle) > 0.9
    torque = -10 * np.sin(angle) - 2 * speed if near else 2 * np.sign(speed)
    return np.clip([torque], -2, 2).astype(np.float32)


def pair_up(base: Any) -> int:
    """Turn over a card whose mate is known: the mate of the one in play, else the first that is not found."""
    values = base.deck_idx_type[base.deck.idx]
    in_play = base.deck["in_play_idx"]
    left = np.setdiff1d(np.arange(len(values)), base.deck["face_up_idx"] + in_play)
    return int(left[values[left] == values[in_play[0]]][0] if in_play else left[0])


def previous_suit(base: Any) -> int:
    hand = base.deck["player"]
    return int(base.deck.suits_idx[hand[max(0, len(hand) - base.k)]])


def balance(base: Any) -> int:
    return int(np.dot(base.state, [0.3, 1.0, 10.0, 2.0]) > 0)


CHEATS: dict[str, Callable[[Any], Any]] = {
    "Autoencode": lambda base: base.deck.suits_idx[base.deck["system"][-1]],
    "Battleship": lambda base: np.flatnonzero((base.board == 1) & (base.guesses == 0))[0],
    "Concentration": pair_up,
    "CountRecall": lambda base: base.counts[base.query],
    "HigherLower": lambda base: int(base.deck.ranks_idx[base.deck["player"][0]] > 6),
    "MultiarmedBandit": lambda base: base.bandits.argmax(),
    "NoisyPositionOnlyCartPole": balance,
    "NoisyPositionOnlyPendulum": swing_up,
    "PositionOnlyCartPole": balance,
    "PositionOnlyPendulum": swing_up,
    "RepeatFirst": lambda base: base.card,
    "RepeatPrevious": previous_suit,
    "VelocityOnlyCartPole": balance,
}
"""For each family, a good action, given popgym's own environment with all that it hides."""


def assert_same(batch: Any, singles: Any) -> None:
    """Demand the results of two vectorised steps to be equal, to 1e-6, in values, types and infos."""
    for one, other in zip(batch[:3], singles[:3], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    for one, other in zip(batch[3], singles[3], strict=True):
        assert one.keys() == other.keys()
        assert one["TimeLimit.truncated"] is other["TimeLimit.truncated"]
        if "terminal_observation" in one:
            assert one["terminal_observation"].dtype == np.float32
            np.testing.assert_allclose(one["terminal_observation"], other["terminal_observation"], rtol=0, atol=1e-6)


def sample(venv: POPGymVecEnv) -> np.ndarray:
    return np.array([venv.action_space.sample() for _ in range(venv.num_envs)])


def make_both(task: str, n_envs: int, seed: int) -> tuple[POPGymVecEnv, DummyVecEnv]:
    batch, singles = POPGymVecEnv(n_envs, task), DummyVecEnv([partial(POPGymEnv, task)] * n_envs)
    assert batch.seed(seed) == singles.seed(seed)
    np.testing.assert_array_equal(batch.reset(), singles.reset())
    return batch, singles


def test_all_but_the_labyrinths_and_minesweeper_are_batched() -> None:
    assert set(TASKS) - set(BATCHED_TASKS) == {
        f"{family}{level}" for family in ("MineSweeper", "LabyrinthEscape", "LabyrinthExplore") for level in LEVELS
    }
    assert set(CHEATS) == set(FAMILIES)


@batched_tasks
def test_spaces_are_those_of_single_environments(popgym: None, task: str) -> None:
    batch, single = POPGymVecEnv(2, task), POPGymEnv(task)
    assert batch.observation_space == single.observation_space
    assert batch.action_space == single.action_space
    assert batch.get_attr("task") == [task, task]


@batched_tasks
def test_batch_equals_singles_over_whole_episodes(popgym: None, task: str) -> None:
    """Under actions that are mostly good, sometimes repeated and sometimes random."""
    batch, singles = make_both(task, n_envs=2, seed=1)
    batch.action_space.seed(0)
    cheat = CHEATS[TASKS[task].family]
    rng = np.random.default_rng(0)
    n_ends, total = 0, np.zeros(2)
    actions = sample(batch)
    while n_ends < 2:
        good = np.array([cheat(env.base) for env in singles.envs], dtype=batch.action_space.dtype)
        actions = (good, actions, sample(batch))[rng.choice(3, p=[0.9, 0.05, 0.05])]
        results = batch.step(actions)
        assert_same(results, singles.step(actions))
        total += results[1]
        n_ends += results[2].sum()
    assert total.sum() > 0


@given(st.sampled_from(sorted(BATCHED_TASKS)), st.integers(1, 3), st.integers(0, 2**32 - 9), st.data())
@settings(max_examples=30, deadline=None)
def test_batch_equals_singles(task: str, n_envs: int, seed: int, data: st.DataObject) -> None:
    """Under random actions, with resets and new seeds in the middle of episodes."""
    pytest.importorskip("popgym", reason="popgym is not installed: pip install 'sb3-elmur[popgym]'")
    batch, singles = make_both(task, n_envs, seed)
    batch.action_space.seed(seed)
    for new_seed in data.draw(st.lists(st.none() | st.integers(0, 2**32 - 9), max_size=2)):
        for _ in range(data.draw(st.integers(1, 60))):
            actions = sample(batch)
            assert_same(batch.step(actions), singles.step(actions))
        if new_seed is not None:
            batch.seed(new_seed)
            singles.seed(new_seed)
        np.testing.assert_allclose(batch.reset(), singles.reset(), rtol=0, atol=1e-6)


@batched_tasks
def test_a_pickled_batch_goes_on_as_the_batch_itself(task: str) -> None:
    batch = POPGymVecEnv(2, task, seed=0)
    batch.action_space.seed(0)
    batch.reset()
    batch.step(sample(batch))
    copy = pickle.loads(pickle.dumps(batch))
    for _ in range(110):  # past the first ends of most tasks
        actions = sample(batch)
        for one, other in zip(batch.step(actions)[:3], copy.step(actions)[:3], strict=True):
            np.testing.assert_array_equal(one, other)


def test_environments_without_a_seed_differ() -> None:
    venvs = [POPGymVecEnv(2, "RepeatFirstEasy") for _ in range(2)]
    first, second = (np.array([venv.reset() for _ in range(20)]) for venv in venvs)
    assert (first != second).any()
    assert (first[:, 0] != first[:, 1]).any()


@pytest.mark.parametrize("task", ["ConcentrationEasy", "NoisyPositionOnlyCartPoleEasy", "BattleshipEasy"])
def test_returned_arrays_and_infos_are_never_written_again(task: str) -> None:
    venv = POPGymVecEnv(3, task, seed=0)
    venv.action_space.seed(0)
    kept = [venv.reset()]
    copies = [kept[0].copy()]
    for _ in range(150):
        actions = sample(venv)
        given = actions.copy()
        observations, rewards, dones, infos = venv.step(actions)
        np.testing.assert_array_equal(actions, given)
        arrays = [observations, rewards, dones, *(info["terminal_observation"] for info in infos if len(info) > 1)]
        kept += arrays
        copies += [array.copy() for array in arrays]
    assert len(kept) > 1 + 3 * 150
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_sb3_wraps_it_and_elmur_trains_on_it() -> None:
    venv = VecNormalize(VecMonitor(POPGymVecEnv(4, "PositionOnlyCartPoleEasy", seed=0)))
    model = RecurrentPPO("ElmurPolicy", venv, n_steps=32, batch_size=64, n_epochs=1, policy_kwargs=SMALL, seed=0)
    model.learn(256)
    assert model.ep_info_buffer
    assert all(episode["r"] == pytest.approx(episode["l"] / 200, abs=1e-5) for episode in model.ep_info_buffer)


def test_what_it_cannot_do_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"`task`.* AutoencodeEasy.* 'MineSweeperEasy'"):
        POPGymVecEnv(2, "MineSweeperEasy")
    with pytest.raises(ValueError, match=r"`n_envs`.* 0"):
        POPGymVecEnv(0, "RepeatFirstEasy")
    with pytest.raises(ValueError, match=r"`n_envs`.* 2\.5"):
        POPGymVecEnv(2.5, "RepeatFirstEasy")  # type: ignore[arg-type]
    venv = POPGymVecEnv(2, "BattleshipEasy")
    with pytest.raises(ResetNeeded):
        venv.step(np.zeros(2, dtype=int))
    venv.reset()
    with pytest.raises(ValueError, match=r"`actions`.*\(2,\).*\(2, 2\)"):
        venv.step(np.zeros((2, 2), dtype=int))
    with pytest.raises(ValueError, match=r"`actions`.* 63.* 64"):
        venv.step(np.array([0, 64]))
    with pytest.raises(AttributeError, match=r"`method_name`.* 'oracle_action'"):
        venv.env_method("oracle_action")
    pendulum = POPGymVecEnv(1, "PositionOnlyPendulumEasy")
    pendulum.reset()
    for torque in (2.5, np.nan):
        with pytest.raises(ValueError, match=f"`actions`.* {torque}"):
            pendulum.step(np.array([[torque]], dtype=np.float32))


def test_popgym_need_not_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "popgym", None)
    monkeypatch.setitem(sys.modules, "popgym.envs", None)
    assert POPGymVecEnv(2, "RepeatFirstEasy").reset().shape == (2, 10)

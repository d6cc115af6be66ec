"""Properties of the T-Maze of several corridors in a row, and of crossing corridors many steps at a time."""

from __future__ import annotations

from itertools import product
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from maze_helpers import (
    DOWN,
    LEFT,
    RIGHT,
    UP,
    arguments,
    assert_batch_equals_singles,
    assert_same,
    play_oracle,
    refusal,
    started,
)
from sb3_elmur.envs import TMazeConfig, TMazeEnv, TMazeVecEnv
from sb3_elmur.envs.tmaze import render as tmaze_render
from sb3_elmur.envs.tmaze.config import REWARDS
from sb3_elmur.envs.tmaze.noise import NOISE_BLOCK

endless_arguments = st.builds(dict.__or__, arguments(), st.fixed_dictionaries({"n_corridors": st.integers(1, 4)}))
seeds = st.integers(0, 2**32 - 10)


def turn(env: TMazeEnv, correct: bool) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
    """Walk to the junction and turn."""
    while env.x < env.corridor:
        env.step(env.oracle_action())
    action = env.oracle_action()
    return env.step(action if correct else UP + DOWN - action)


# The single environment


@given(endless_arguments, seeds)
@settings(max_examples=40, deadline=None)
def test_first_corridor_is_the_one_of_the_single_maze(arguments: dict[str, Any], seed: int) -> None:
    endless, single = TMazeEnv(**arguments), TMazeEnv(**arguments | {"n_corridors": 1})
    np.testing.assert_array_equal(endless.reset(seed=seed)[0], single.reset(seed=seed)[0])
    rng = np.random.default_rng(seed)
    terminated = False
    while not terminated:
        assert (endless.x, endless.goal, endless.corridor) == (single.x, single.goal, single.corridor)
        action = int(rng.choice([single.oracle_action(), rng.integers(4)]))
        observation, reward, *_ = endless.step(action)
        expected, expected_reward, terminated, *_ = single.step(action)
        assert reward == expected_reward
        assert observation[3] == expected[3]
        if not terminated:
            np.testing.assert_array_equal(observation, expected)


@given(endless_arguments, seeds)
@settings(max_examples=40, deadline=None)
def test_oracle_returns_the_number_of_corridors(arguments: dict[str, Any], seed: int) -> None:
    rewards, info = play_oracle(started(seed, **arguments))
    assert sum(rewards) == rewards.count(1.0) == arguments["n_corridors"]
    assert info == {"is_success": True, "turn_success": 1.0}
    assert type(info["is_success"]) is bool


@pytest.mark.parametrize("active", [False, True])
def test_turn_shows_the_first_observation_of_the_next_corridor(active: bool) -> None:
    env = started(length=6, n_corridors=4, active=active)
    for correct in (True, False, True):
        observation, _, terminated, truncated, info = turn(env, correct)
        assert observation[:3].tolist() == [0, 0 if active else env.goal, 0]
        assert (env.x, env.y, env.steps) == (0, 0, 0)
        assert (terminated, truncated, info) == (False, False, {})
    observation = turn(env, True)[0]
    assert observation[:3].tolist() == [env.goal, 0, 1]


def test_each_turn_is_rewarded_and_counted_for_itself() -> None:
    for correct in product([False, True], repeat=3):
        env = started(n_corridors=3)
        steps = [turn(env, each) for each in correct]
        assert [step[1] for step in steps] == [float(each) for each in correct]
        assert [step[2] for step in steps] == [False, False, True]
        assert steps[-1][4] == {"is_success": all(correct), "turn_success": sum(correct) / 3}


@pytest.mark.parametrize("reward", REWARDS)
def test_missed_deadline_loses_the_remaining_turns(reward: str) -> None:
    env = started(length=5, n_corridors=4, reward=reward)
    turn(env, True)
    turn(env, False)
    steps = [env.step(LEFT) for _ in range(5)]
    assert [step[2] for step in steps] == [False] * 4 + [True]
    assert steps[-1][1] == 0.0
    assert steps[-1][4] == {"is_success": False, "turn_success": 0.25}
    with pytest.raises(ResetNeeded):
        env.step(RIGHT)


def test_turn_on_the_last_step_leads_on() -> None:
    env = started(length=4, n_corridors=2)
    for terminated in (False, True):
        env.step(LEFT)
        assert env.steps == 1
        assert turn(env, True)[1:3] == (1.0, terminated)


def test_reset_forgets_the_turns_of_a_broken_off_episode() -> None:
    env = started(length=4, n_corridors=2)
    turn(env, False)
    env.reset()
    assert play_oracle(env) == ([0.0, 0.0, 1.0] * 2, {"is_success": True, "turn_success": 1.0})


@pytest.mark.parametrize("hint_steps", [1, 2, 9])
def test_passive_hint_shows_at_the_start_of_each_corridor_only(hint_steps: int) -> None:
    env = TMazeEnv(length=8, n_corridors=3, hint_steps=hint_steps)
    observation, _ = env.reset(seed=1)
    goals = []
    for _ in range(3):
        goals.append(env.goal)
        hints = [observation[1]] + [env.step(RIGHT)[0][1] for _ in range(6)]
        assert hints == ([env.goal] * hint_steps + [0] * 7)[:7]
        observation = turn(env, True)[0]
    assert len(set(goals)) == 2


def test_active_hint_must_be_fetched_in_each_corridor() -> None:
    env = started(length=8, n_corridors=3, active=True)
    for _ in range(3):
        assert env.oracle_action() == LEFT
        assert [env.step(action)[0][1] for action in (LEFT, RIGHT, RIGHT)] == [env.goal, 0, 0]
        turn(env, True)


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize(("active", "walk"), [(False, [UP, RIGHT, LEFT, RIGHT]), (True, [LEFT, LEFT, RIGHT, DOWN, RIGHT])])
def test_shaped_rewards_count_the_steps_within_the_corridor(reward: str, active: bool, walk: list[int]) -> None:
    env = started(length=14, corridor_length=4, n_corridors=3, reward=reward, active=active)
    rewards = []
    for _ in range(3):
        rewards.append([env.step(action)[1] for action in walk])
        turn(env, True)
    assert rewards[0] == rewards[1] == rewards[2]
    assert any(rewards[0]) == (reward != "sparse")


def test_corridors_are_drawn_balanced_and_independently() -> None:
    env = started(length=5, corridor_length=(1, 3), n_corridors=4000)
    drawn = []
    for _ in range(4000):
        drawn.append((env.goal, env.corridor))
        turn(env, bool(len(drawn) % 2))
    goals, corridors = np.array(drawn).T
    assert abs(goals.mean()) < 0.05
    assert np.abs(np.bincount(corridors)[1:] / 4000 - 1 / 3).max() < 0.05
    correlations = np.corrcoef([goals[1:], goals[:-1], corridors[1:], corridors[:-1]])
    assert np.abs(correlations - np.eye(4)).max() < 0.06


@pytest.mark.parametrize("n_corridors", [0, 2.0, True, None])
def test_errors_name_n_corridors_and_the_value(n_corridors: Any) -> None:
    for make in (TMazeConfig, TMazeEnv, lambda **arguments: TMazeVecEnv(2, **arguments)):
        with pytest.raises(ValueError, match=refusal("n_corridors", n_corridors)):
            make(n_corridors=n_corridors)


def test_numpy_n_corridors_becomes_an_int() -> None:
    assert type(TMazeConfig(n_corridors=np.int32(2)).n_corridors) is int


def test_active_corridors_pass_both_checkers() -> None:
    sb3_check_env(TMazeEnv(length=6, n_corridors=2, active=True))
    gymnasium_check_env(gymnasium.make("TMazeEndless3x10-v0", active=True).unwrapped, skip_render_check=True)


# The batch


@given(st.integers(1, 4), seeds, endless_arguments)
@settings(max_examples=15, deadline=None)
def test_batch_equals_singles_in_every_corridor(n_envs: int, seed: int, arguments: dict[str, Any]) -> None:
    assert_batch_equals_singles(n_envs, seed, n_steps=80, arguments=arguments)


def test_batch_equals_singles_in_every_corridor_across_noise_blocks() -> None:
    arguments = {"length": 9, "corridor_length": (1, 8), "n_corridors": 3, "reward": "penalty"}
    assert_batch_equals_singles(2, seed=5, n_steps=NOISE_BLOCK + 100, arguments=arguments)


def test_turns_are_read_by_index() -> None:
    batch = TMazeVecEnv(3, length=4, n_corridors=5, seed=0)
    singles = DummyVecEnv([lambda: TMazeEnv(length=4, n_corridors=5)] * 3)
    singles.seed(0)
    batch.reset()
    singles.reset()
    for action in (RIGHT, RIGHT, UP) * 3:
        batch.step(np.full(3, action))
        singles.step(np.full(3, action))
    for name in ("turns", "correct_turns"):
        assert batch.get_attr(name) == singles.get_attr(name)
    assert batch.get_attr("turns") == [3] * 3
    assert len(set(batch.get_attr("correct_turns"))) > 1


# Many steps at a time


@given(st.data(), st.integers(1, 3), seeds, st.integers(1, 3), st.integers(1, 40), st.sampled_from(REWARDS))
@settings(max_examples=12, deadline=None)
def test_looking_ahead_and_moving_right_equal_stepping(
    data: st.DataObject, n_envs: int, seed: int, n_corridors: int, hint_steps: int, reward: str
) -> None:
    arguments = {"n_corridors": n_corridors, "hint_steps": hint_steps, "reward": reward, "corridor_length": (1, 60)}
    fast, slow = (TMazeVecEnv(n_envs, length=3 * NOISE_BLOCK, seed=seed, **arguments) for _ in range(2))
    np.testing.assert_array_equal(fast.reset(), slow.reset())
    for _ in range(2):
        n_steps = data.draw(st.integers(1, 30) | st.integers(NOISE_BLOCK - 100, NOISE_BLOCK + 10))
        n_steps = min(n_steps, 3 * NOISE_BLOCK - 1 - int(fast.steps.max()))
        ahead = fast.look_ahead(n_steps + 1)
        assert ahead.dtype == np.float32
        np.testing.assert_array_equal(fast.look_ahead(n_steps + 1), ahead)
        np.testing.assert_array_equal(slow.look_ahead(1)[:, 0], ahead[:, 0])
        steps = [slow.step(np.full(n_envs, RIGHT)) for _ in range(n_steps)]
        np.testing.assert_array_equal(np.stack([step[0] for step in steps], axis=1), ahead[:, 1:])
        assert not any(step[2].any() for step in steps)
        moved = fast.move_right(n_steps)
        assert moved.dtype == np.float32
        np.testing.assert_array_equal(moved, ahead[:, -1])
        for _ in range(data.draw(st.integers(0, 100))):
            actions = fast.oracle_actions()
            assert_same(fast.step(actions), slow.step(actions))


def test_moving_right_passes_many_noise_blocks_at_once() -> None:
    arguments: dict[str, Any] = {"length": 10 * NOISE_BLOCK, "seed": 3}
    fast, looking, slow = (TMazeVecEnv(2, **arguments) for _ in range(3))
    for venv in (fast, looking, slow):
        venv.reset()
    n_steps = 5 * NOISE_BLOCK + 7
    stepped = np.stack([slow.step(np.full(2, RIGHT))[0] for _ in range(n_steps)], axis=1)
    np.testing.assert_array_equal(looking.look_ahead(n_steps + 1)[:, 1:], stepped)
    np.testing.assert_array_equal(looking.move_right(n_steps), stepped[:, -1])
    np.testing.assert_array_equal(fast.move_right(n_steps), stepped[:, -1])
    after = slow.step(np.array([RIGHT, LEFT]))
    for venv in (looking, fast):
        assert_same(venv.step(np.array([RIGHT, LEFT])), after)


def test_seeding_after_looking_ahead_restarts_the_noise() -> None:
    venv, fresh = TMazeVecEnv(2, length=5000, seed=3), TMazeVecEnv(2, length=5000, seed=3)
    venv.reset()
    venv.look_ahead(2 * NOISE_BLOCK)
    venv.move_right(10)
    venv.seed(3)
    np.testing.assert_array_equal(venv.reset(), fresh.reset())
    np.testing.assert_array_equal(venv.look_ahead(3000), fresh.look_ahead(3000))


def test_agents_at_the_junction_stay_there() -> None:
    venv = TMazeVecEnv(3, length=60, corridor_length=(1, 50), seed=0)
    venv.reset()
    for _ in range(5):
        flags = venv.move_right(11)[:, 2]
        np.testing.assert_array_equal(flags, venv.x == venv.corridor)
        np.testing.assert_array_equal(flags, venv.x == venv.corridor)
    assert flags.all()
    _, rewards, dones, _ = venv.step(venv.oracle_actions())
    assert rewards.tolist() == [1, 1, 1]
    assert dones.all()


def test_a_million_cells_are_crossed_at_once() -> None:
    venv = TMazeVecEnv(1, length=1_000_000, seed=0)
    venv.reset()
    assert venv.move_right(999_997)[0, 2] == 0
    assert venv.move_right(1)[0, 2] == 1
    assert venv.step(venv.oracle_actions())[1].tolist() == [1.0]


def test_walking_is_refused_up_to_the_deadline() -> None:
    venv = TMazeVecEnv(2, length=12, corridor_length=(1, 9), n_corridors=9, seed=0)
    with pytest.raises(ResetNeeded):
        venv.look_ahead(1)
    with pytest.raises(ResetNeeded):
        venv.move_right(1)
    venv.reset()
    venv.move_right(3)
    venv.set_attr("steps", 2, indices=1)
    for call, most in ((venv.look_ahead, 9), (venv.move_right, 8)):
        for n_steps in (most + 1, 0, 2.0, "2"):
            with pytest.raises(ValueError, match=refusal("n_steps", n_steps)):
                call(n_steps)
        call(most)
    assert venv.steps.tolist() == [11, 10]


def test_walking_is_refused_in_the_active_maze() -> None:
    venv = TMazeVecEnv(2, active=True, seed=0)
    venv.reset()
    for call in (venv.look_ahead, venv.move_right):
        with pytest.raises(ValueError, match=refusal("active", True)):
            call(1)


# Pictures


def test_pictures_name_the_corridor(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame", reason="pygame is not installed: pip install 'sb3-elmur[render]'")
    written: list[str] = []
    monkeypatch.setattr(tmaze_render, "write", lambda surface, text, *_, **__: written.append(text))
    env = started(length=3, n_corridors=2, render_mode="rgb_array")
    for texts in (["corridor 1 of 2", "correct turns: 0 of 0"], ["corridor 2 of 2", "correct turns: 1 of 1"]):
        written.clear()
        env.render()
        assert set(texts) < set(written)
        turn(env, True)
    written.clear()
    env.render()
    assert {"corridor 2 of 2", "correct turns: 2 of 2", "success"} < set(written)


def test_pictures_tell_the_corridors_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pytest.importorskip("pygame", reason="pygame is not installed: pip install 'sb3-elmur[render]'")
    env = started(length=3, n_corridors=4, render_mode="rgb_array")
    images = [env.render()]
    for correct in (True, True, False):
        turn(env, correct)
        env.goal = 1
        images.append(env.render())
    env.correct_turns = 3
    images.append(env.render())
    assert len({image.tobytes() for image in images}) == len(images)


def test_batch_draws_what_singles_draw_in_every_corridor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pytest.importorskip("pygame", reason="pygame is not installed: pip install 'sb3-elmur[render]'")
    batch = TMazeVecEnv(2, length=5, n_corridors=3, render_mode="rgb_array", seed=0)
    singles = DummyVecEnv([lambda: TMazeEnv(length=5, n_corridors=3, render_mode="rgb_array")] * 2)
    singles.seed(0)
    batch.reset()
    singles.reset()
    for _ in range(14):
        np.testing.assert_array_equal(batch.render(), singles.render())
        actions = batch.oracle_actions()
        batch.step(actions)
        singles.step(actions)
    batch.step(np.full(2, LEFT))
    batch.move_right(1)
    for action in (LEFT, RIGHT):
        singles.step(np.full(2, action))
    np.testing.assert_array_equal(batch.render(), singles.render())

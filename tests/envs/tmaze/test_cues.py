"""Properties of the T-Maze of several cues: the single environment, its batch, its ids and its pictures."""

from __future__ import annotations

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

from maze_helpers import DOWN, LEFT, RIGHT, UP, assert_same, refusal
from sb3_elmur.envs import TMazeCuesConfig, TMazeCuesEnv, TMazeCuesVecEnv, TMazeEnv
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.envs.tmaze.cues import CUE_REWARDS, ORDERS
from sb3_elmur.envs.tmaze.noise import NOISE_BLOCK

IDS = sorted(id for id, spec in gymnasium.registry.items() if spec.entry_point == "sb3_elmur.envs.tmaze:TMazeCuesEnv")
seeds = st.integers(0, 2**32 - 10)


@st.composite
def cue_arguments(draw: st.DrawFn) -> dict[str, Any]:
    n_cues = draw(st.integers(1, 5))
    length = draw(st.integers(3 * n_cues, 40))
    cells = st.integers(1, (length - 2 * n_cues + 1) // n_cues)
    return {
        "n_cues": n_cues,
        "length": length,
        "corridor_length": draw(st.none() | cells | st.tuples(cells, cells).map(lambda pair: tuple(sorted(pair)))),
        "order": draw(st.sampled_from(ORDERS)),
        "wrong_turn_ends": draw(st.booleans()),
        "reward": draw(st.sampled_from(CUE_REWARDS)),
    }


def started(seed: int = 0, **arguments: Any) -> TMazeCuesEnv:
    env = TMazeCuesEnv(**arguments)
    env.reset(seed=seed)
    return env


def turn(env: TMazeCuesEnv, correct: bool) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
    """Walk to the junction and turn."""
    while env.x < env.corridor:
        env.step(RIGHT)
    action = env.oracle_action()
    return env.step(action if correct else UP + DOWN - action)


# The single environment


@given(st.integers(3, 20), st.sampled_from(CUE_REWARDS), seeds, st.data())
@settings(max_examples=30, deadline=None)
def test_one_cue_is_the_passive_maze(length: int, reward: str, seed: int, data: st.DataObject) -> None:
    arguments = {"length": length, "corridor_length": (1, length - 2), "reward": reward}
    cues, maze = TMazeCuesEnv(n_cues=1, **arguments), TMazeEnv(**arguments)
    rng = np.random.default_rng(seed)
    for episode_seed in (seed, None):
        np.testing.assert_array_equal(cues.reset(seed=episode_seed)[0][:4], maze.reset(seed=episode_seed)[0])
        terminated = False
        while not terminated:
            action = int(rng.choice([maze.oracle_action(), rng.integers(4)]))
            assert cues.oracle_action() == maze.oracle_action()
            observation, *result = cues.step(action)
            expected, *expected_result = maze.step(action)
            np.testing.assert_array_equal(observation[:4], expected)
            assert result == expected_result
            terminated = result[1]


@given(cue_arguments(), seeds)
@settings(max_examples=30, deadline=None)
def test_oracle_turns_right_at_every_junction(arguments: dict[str, Any], seed: int) -> None:
    env = started(seed, **arguments)
    rewards, terminated, info = [], False, {}
    while not terminated:
        observation, reward, terminated, _, info = env.step(env.oracle_action())
        assert env.observation_space.contains(observation)
        rewards.append(reward)
    assert sum(rewards) == rewards.count(1.0) == arguments["n_cues"]
    assert info == {"is_success": True, "turn_success": 1.0}


@pytest.mark.parametrize("order", ORDERS)
def test_the_first_observations_show_all_cues_and_their_numbers(order: str) -> None:
    env = TMazeCuesEnv(n_cues=4, length=40, order=order)
    observations = [env.reset(seed=5)[0]] + [env.step(action)[0] for action in (LEFT, RIGHT, UP, RIGHT, RIGHT)]
    assert [observation[1] for observation in observations] == [*env.cues, 0, 0]
    np.testing.assert_array_equal([observation[4:] for observation in observations], np.eye(6, 4))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(4))
def test_every_junction_asks_for_another_cue_and_tells_it_only_if_the_order_is_told(order: str, seed: int) -> None:
    env = started(seed, n_cues=4, length=60, order=order)
    asked = []
    for _ in range(4):
        observation = np.zeros(8)
        while env.x < env.corridor:
            assert env.steps < 4 or not observation[4:].any()
            observation, *_ = env.step(RIGHT)
        numbers = observation[4:].nonzero()[0].tolist()
        number = numbers[0] if order == "told" else len(asked)
        assert numbers == ([number] if order == "told" else [])
        assert env.oracle_action() == (UP if env.cues[number] > 0 else DOWN)
        asked.append(number)
        env.step(env.oracle_action())
    assert sorted(asked) == [0, 1, 2, 3]


def test_cues_and_told_orders_are_uniform() -> None:
    env = TMazeCuesEnv(n_cues=3, length=30, order="told")
    env.reset(seed=0)
    episodes = []
    for _ in range(3000):
        episodes.append((*env.cues, *env.asked.tolist()))
        env.reset()
    cues, orders = np.array(episodes)[:, :3], np.array(episodes)[:, 3:]
    assert np.abs(cues.mean(axis=0)).max() < 0.06
    assert np.abs(np.corrcoef(cues.T) - np.eye(3)).max() < 0.06
    assert np.abs(np.unique(orders, axis=0, return_counts=True)[1] / 3000 - 1 / 6).max() < 0.03


def test_a_wrong_turn_ends_the_episode_or_costs_its_reward() -> None:
    env = started(n_cues=3, length=30)
    assert turn(env, True)[1:4] == (1.0, False, False)
    assert turn(env, False)[1:] == (0.0, True, False, {"is_success": False, "turn_success": 1 / 3})
    env = started(n_cues=3, length=30, wrong_turn_ends=False)
    assert turn(env, False)[1:3] == (0.0, False)
    assert turn(env, True)[1:3] == (1.0, False)
    assert turn(env, True)[1:] == (1.0, True, False, {"is_success": False, "turn_success": 2 / 3})


def test_the_deadline_ends_the_episode() -> None:
    env = started(n_cues=2, length=6)
    steps = [env.step(LEFT) for _ in range(6)]
    assert [step[2] for step in steps] == [False] * 5 + [True]
    assert steps[-1][1:] == (0.0, True, False, {"is_success": False, "turn_success": 0.0})


def test_eased_reward_punishes_every_step_that_does_not_advance() -> None:
    env = started(n_cues=2, length=10, reward="eased")
    assert [env.step(action)[1] for action in (RIGHT, LEFT, UP, RIGHT)] == [0.0, -0.1, -0.1, 0.0]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"n_cues": 0}, "n_cues"),
        ({"n_cues": 2.0}, "n_cues"),
        ({"n_cues": 4, "length": 11}, "length"),
        ({"order": "random"}, "order"),
        ({"reward": "penalty"}, "reward"),
        ({"wrong_turn_ends": 1}, "wrong_turn_ends"),
        ({"corridor_length": (5, 4)}, "corridor_length"),
        ({"n_cues": 2, "length": 10, "corridor_length": 4}, "corridor_length"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments: dict[str, Any], name: str) -> None:
    for make in (TMazeCuesEnv, lambda **arguments: TMazeCuesVecEnv(2, **arguments)):
        with pytest.raises(ValueError, match=refusal(name, arguments[name])):
            make(**arguments)


def test_stepping_without_a_running_episode_is_refused() -> None:
    env = TMazeCuesEnv()
    for call in (lambda: env.step(RIGHT), env.oracle_action, TMazeCuesEnv(render_mode="rgb_array").render):
        with pytest.raises(ResetNeeded):
            call()


# Ids


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.filterwarnings("error")
def test_ids_pass_both_checkers(env_id: str) -> None:
    sb3_check_env(gymnasium.make(env_id))
    gymnasium_check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)


def test_ids_name_cues_order_and_length_and_have_native_batches() -> None:
    assert len(IDS) == 90
    for env_id, order in (("TMazeCues8x1000-v0", "shown"), ("TMazeToldCues8x1000-v0", "told")):
        batch = make_batch(env_id, 3)
        assert isinstance(batch, TMazeCuesVecEnv)
        assert batch.config == TMazeCuesConfig(n_cues=8, length=1000, order=order)


# The batch


@given(st.integers(1, 4), seeds, cue_arguments())
@settings(max_examples=15, deadline=None)
def test_batch_equals_singles(n_envs: int, seed: int, arguments: dict[str, Any]) -> None:
    compare(n_envs, seed, 60, arguments)


def test_batch_equals_singles_across_noise_blocks() -> None:
    compare(2, 5, NOISE_BLOCK + 50, {"n_cues": 3, "length": 20, "corridor_length": (1, 4), "order": "told"})


def compare(n_envs: int, seed: int, n_steps: int, arguments: dict[str, Any]) -> None:
    batch = TMazeCuesVecEnv(n_envs, **arguments)
    singles = DummyVecEnv([lambda: TMazeCuesEnv(**arguments)] * n_envs)
    assert batch.observation_space == singles.observation_space
    assert batch.seed(seed) == singles.seed(seed)
    np.testing.assert_array_equal(batch.reset(), singles.reset())
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        oracle = batch.oracle_actions()
        assert oracle.tolist() == singles.env_method("oracle_action") == batch.env_method("oracle_action")
        actions = np.where(rng.random(n_envs) < 0.85, oracle, rng.integers(4, size=n_envs))
        assert_same(batch.step(actions), singles.step(actions))
        for name in ("x", "steps", "corridor", "turns", "correct_turns"):
            assert batch.get_attr(name) == singles.get_attr(name)


@given(st.integers(1, 3), seeds, cue_arguments(), st.data())
@settings(max_examples=15, deadline=None)
def test_looking_ahead_and_moving_right_equal_stepping(
    n_envs: int, seed: int, arguments: dict[str, Any], data: st.DataObject
) -> None:
    fast, slow = (TMazeCuesVecEnv(n_envs, seed=seed, **arguments) for _ in range(2))
    np.testing.assert_array_equal(fast.reset(), slow.reset())
    for _ in range(3):
        most = arguments["length"] - 1 - int(fast.steps.max())
        if most > 0:
            n_steps = data.draw(st.integers(1, most))
            ahead = fast.look_ahead(n_steps + 1)
            np.testing.assert_array_equal(slow.look_ahead(1)[:, 0], ahead[:, 0])
            steps = [slow.step(np.full(n_envs, RIGHT))[0] for _ in range(n_steps)]
            np.testing.assert_array_equal(np.stack(steps, axis=1), ahead[:, 1:])
            np.testing.assert_array_equal(fast.move_right(n_steps), ahead[:, -1])
        for call in (fast.look_ahead, fast.move_right):
            with pytest.raises(ValueError, match=refusal("n_steps", most + 2)):
                call(most + 2)
        actions = fast.oracle_actions()
        assert_same(fast.step(actions), slow.step(actions))


def test_batch_walks_a_million_cells() -> None:
    venv = TMazeCuesVecEnv(2, n_cues=8, length=1_000_000, seed=0)
    venv.reset()
    for _ in range(8):
        venv.move_right(int(venv.corridor[0] - venv.x[0]))
        _, rewards, dones, infos = venv.step(venv.oracle_actions())
        assert rewards.tolist() == [1.0, 1.0]
    assert dones.all()
    assert infos[0]["is_success"]


# Pictures


@pytest.fixture
def pygame(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return pytest.importorskip("pygame", reason="pygame is not installed: pip install 'sb3-elmur[render]'")


def test_render_modes_pass_the_checker(pygame: Any) -> None:
    gymnasium_check_env(gymnasium.make("TMazeCues2x30-v0", render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("number", range(4))
def test_pictures_show_every_cue(pygame: Any, number: int) -> None:
    env = started(n_cues=4, render_mode="rgb_array")
    env.steps = 9  # no cue is shown to the agent
    image = env.render()
    env.cues[number] *= -1
    assert (env.render() != image).any()


def test_batch_draws_what_singles_draw(pygame: Any) -> None:
    arguments = {"n_cues": 2, "length": 9, "order": "told", "render_mode": "rgb_array"}
    batch = TMazeCuesVecEnv(2, seed=0, **arguments)
    singles = DummyVecEnv([lambda: TMazeCuesEnv(**arguments)] * 2)
    singles.seed(0)
    batch.reset()
    singles.reset()
    for _ in range(8):
        np.testing.assert_array_equal(batch.render(), singles.render())
        actions = batch.oracle_actions()
        batch.step(actions)
        singles.step(actions)

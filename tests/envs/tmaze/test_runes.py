"""Properties of the T-Maze of runes: the single environment, its batch, its ids and its pictures."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from maze_helpers import RIGHT, UP, assert_same, refusal
from sb3_elmur.envs import TMazeEnv, TMazeRunesConfig, TMazeRunesEnv, TMazeRunesVecEnv
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.envs.tmaze.runes import RUNE_REWARDS, Rune, Runes

IDS = sorted(id for id, spec in gymnasium.registry.items() if spec.entry_point == "sb3_elmur.envs.tmaze:TMazeRunesEnv")
seeds = st.integers(0, 2**32 - 10)


@st.composite
def rune_arguments(draw: st.DrawFn) -> dict[str, Any]:
    n_runes = draw(st.integers(0, 4))
    length = draw(st.integers(n_runes + 3, 20))
    cells = st.integers(n_runes + 1, length - 1)
    return {
        "n_runes": n_runes,
        "length": length,
        "corridor_length": draw(st.none() | cells | st.tuples(cells, cells).map(lambda pair: tuple(sorted(pair)))),
        "reward": draw(st.sampled_from(RUNE_REWARDS)),
    }


def started(seed: int = 0, **arguments: Any) -> TMazeRunesEnv:
    env = TMazeRunesEnv(**arguments)
    env.reset(seed=seed)
    return env


def walked(env: TMazeRunesEnv) -> list[np.ndarray]:
    """What is seen from the present to the junction."""
    observations = []
    while env.x < env.corridor:
        observations.append(env.step(RIGHT)[0])
    return observations


# The single environment


@given(st.integers(3, 20), st.sampled_from(RUNE_REWARDS), seeds)
@settings(max_examples=20, deadline=None)
def test_without_runes_it_is_the_passive_maze(length: int, reward: str, seed: int) -> None:
    arguments = {"length": length, "corridor_length": (1, length - 2), "reward": reward}
    runes, maze = TMazeRunesEnv(n_runes=0, **arguments), TMazeEnv(**arguments)
    rng = np.random.default_rng(seed)
    for episode_seed in (seed, None):
        np.testing.assert_array_equal(runes.reset(seed=episode_seed)[0][:4], maze.reset(seed=episode_seed)[0])
        terminated = False
        while not terminated:
            action = int(rng.choice([maze.oracle_action(), rng.integers(4)]))
            assert runes.oracle_action() == maze.oracle_action()
            observation, *result = runes.step(action)
            expected, *expected_result = maze.step(action)
            np.testing.assert_array_equal(observation, [*expected, 0, 0, 0, 0])
            assert result == expected_result
            terminated = result[1]


@pytest.mark.parametrize(
    ("kinds", "held"),
    [
        ([], -1),
        ([Rune.INVERT], 1),
        ([Rune.INVERT, Rune.REPEAT, Rune.INVERT], -1),
        ([Rune.CANCEL], 0),
        ([Rune.CANCEL, Rune.INVERT, Rune.REPEAT], 0),
        ([Rune.CANCEL, Rune.REPLACE], 1),
        ([Rune.REPLACE, Rune.INVERT], -1),
    ],
)
def test_runes_change_the_cue_that_is_held(kinds: list[Rune], held: int) -> None:
    assert Runes(list(range(len(kinds))), [*kinds], [int(kind == Rune.REPLACE) for kind in kinds]).apply(-1) == held


@given(rune_arguments(), seeds)
@settings(max_examples=30, deadline=None)
def test_what_is_seen_tells_the_turn_of_the_oracle(arguments: dict[str, Any], seed: int) -> None:
    env = TMazeRunesEnv(**arguments)
    first, _ = env.reset(seed=seed)
    held, n_runes = first[1], 0
    assert abs(held) == 1
    assert not first[4:].any()
    for observation in walked(env):
        assert env.observation_space.contains(observation)
        invert, repeat, cancel, replace = observation[4:]
        n_runes += invert + repeat + cancel + replace
        held = observation[1] if replace else 0 if cancel else -held if invert else held
        assert replace or not observation[1]
    assert n_runes == arguments["n_runes"]
    assert (env.oracle_action() == UP) == (held >= 0)
    _, reward, terminated, _, info = env.step(env.oracle_action())
    assert (reward, terminated, info) == (1.0, True, {"is_success": True, "turn_success": 1.0})


def test_runes_and_their_places_are_uniform() -> None:
    env = started(n_runes=2, length=7)  # five cells, so that runes are seen at steps 1 to 4
    kinds, steps, cues = [], [], []
    for _ in range(2000):
        env.reset()
        kinds += env.runes.kinds
        steps.append(env.runes.steps)
        cues += [cue for kind, cue in zip(env.runes.kinds, env.runes.cues, strict=True) if kind == Rune.REPLACE]
    assert np.abs(np.bincount(kinds) / 4000 - 1 / 4).max() < 0.03
    places, counts = np.unique(steps, axis=0, return_counts=True)
    assert len(places) == 6
    assert np.abs(counts / 2000 - 1 / 6).max() < 0.04
    assert abs(np.mean(cues)) < 0.1


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"n_runes": -1}, "n_runes"),
        ({"n_runes": 2.0}, "n_runes"),
        ({"n_runes": 4, "length": 6}, "length"),
        ({"reward": "penalty"}, "reward"),
        ({"n_runes": 3, "corridor_length": 3}, "corridor_length"),
        ({"n_runes": 3, "corridor_length": (3, 9)}, "corridor_length"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments: dict[str, Any], name: str) -> None:
    for make in (TMazeRunesEnv, lambda **arguments: TMazeRunesVecEnv(2, **arguments)):
        with pytest.raises(ValueError, match=refusal(name, arguments[name])):
            make(**arguments)


# Ids


@pytest.mark.parametrize("env_id", ["TMazeRunes-v0", "TMazeRunes8x30-v0", "TMazeRunes1x1000000-v0"])
@pytest.mark.filterwarnings("error")
def test_ids_pass_both_checkers(env_id: str) -> None:
    sb3_check_env(gymnasium.make(env_id))
    gymnasium_check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)


def test_ids_name_runes_and_length_and_have_native_batches() -> None:
    assert len(IDS) == 1 + 4 * 9
    batch = make_batch("TMazeRunes8x1000-v0", 3)
    assert isinstance(batch, TMazeRunesVecEnv)
    assert batch.config == TMazeRunesConfig(n_runes=8, length=1000)


# The batch


@given(st.integers(1, 4), seeds, rune_arguments())
@settings(max_examples=15, deadline=None)
def test_batch_equals_singles(n_envs: int, seed: int, arguments: dict[str, Any]) -> None:
    batch = TMazeRunesVecEnv(n_envs, **arguments)
    singles = DummyVecEnv([lambda: TMazeRunesEnv(**arguments)] * n_envs)
    assert batch.observation_space == singles.observation_space
    assert batch.seed(seed) == singles.seed(seed)
    np.testing.assert_array_equal(batch.reset(), singles.reset())
    rng = np.random.default_rng(seed)
    for _ in range(50):
        oracle = batch.oracle_actions()
        assert oracle.tolist() == singles.env_method("oracle_action") == batch.env_method("oracle_action")
        actions = np.where(rng.random(n_envs) < 0.85, oracle, rng.integers(4, size=n_envs))
        assert_same(batch.step(actions), singles.step(actions))


@given(st.integers(1, 3), seeds, rune_arguments(), st.data())
@settings(max_examples=15, deadline=None)
def test_looking_ahead_and_moving_right_equal_stepping(
    n_envs: int, seed: int, arguments: dict[str, Any], data: st.DataObject
) -> None:
    fast, slow = (TMazeRunesVecEnv(n_envs, seed=seed, **arguments) for _ in range(2))
    np.testing.assert_array_equal(fast.reset(), slow.reset())
    n_steps = data.draw(st.integers(1, arguments["length"] - 1))
    ahead = fast.look_ahead(n_steps + 1)
    np.testing.assert_array_equal(slow.look_ahead(1)[:, 0], ahead[:, 0])
    steps = [slow.step(np.full(n_envs, RIGHT))[0] for _ in range(n_steps)]
    np.testing.assert_array_equal(np.stack(steps, axis=1), ahead[:, 1:])
    np.testing.assert_array_equal(fast.move_right(n_steps), ahead[:, -1])


# Pictures


@pytest.fixture
def pygame(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return pytest.importorskip("pygame", reason="pygame is not installed: pip install 'sb3-elmur[render]'")


def test_pictures_show_runes_and_which_is_seen(pygame: Any) -> None:
    env = started(n_runes=3, render_mode="rgb_array")
    while env.steps != env.runes.steps[1]:
        env.step(RIGHT)
    image = env.render()
    for kinds, steps in ((env.runes.kinds[::-1], env.runes.steps), (env.runes.kinds, [100, 101, 102])):
        env.runes = env.runes._replace(kinds=kinds, steps=steps)
        assert (env.render() != image).any()


def test_batch_draws_what_singles_draw(pygame: Any) -> None:
    arguments = {"n_runes": 2, "length": 6, "render_mode": "rgb_array"}
    batch = TMazeRunesVecEnv(2, seed=0, **arguments)
    singles = DummyVecEnv([lambda: TMazeRunesEnv(**arguments)] * 2)
    singles.seed(0)
    batch.reset()
    singles.reset()
    for _ in range(6):
        np.testing.assert_array_equal(batch.render(), singles.render())
        actions = batch.oracle_actions()
        batch.step(actions)
        singles.step(actions)

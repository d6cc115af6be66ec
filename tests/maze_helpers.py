"""T-Mazes and their comparison, for the tests."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_elmur.envs import TMazeEnv, TMazeVecEnv
from sb3_elmur.envs.tmaze.config import REWARDS

RIGHT, UP, LEFT, DOWN = range(4)


def refusal(name: str, value: Any) -> str:
    """What an error's message matches that names an argument and the value received."""
    return rf"^`{name}` .* Received {re.escape(repr(value))}\.$"


def started(seed: int = 0, **arguments: Any) -> TMazeEnv:
    env = TMazeEnv(**arguments)
    env.reset(seed=seed)
    return env


def play_oracle(env: TMazeEnv) -> tuple[list[float], dict[str, Any]]:
    rewards, terminated, info = [], False, {}
    while not terminated:
        _, reward, terminated, _, info = env.step(env.oracle_action())
        rewards.append(reward)
    return rewards, info


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    active = draw(st.booleans())
    detour = 2 if active else 0
    length = draw(st.integers(3 + detour, 20))
    cells = st.integers(1, length - 1 - detour)
    corridor = draw(st.none() | cells | st.tuples(cells, cells).map(lambda pair: tuple(sorted(pair))))
    return {
        "length": length,
        "corridor_length": corridor,
        "hint_steps": 1 if active else draw(st.integers(1, 5)),
        "reward": draw(st.sampled_from(REWARDS)),
        "active": active,
    }


def assert_same(left: Any, right: Any) -> None:
    """Demand equal values and types, also inside the infos of two vectorised steps."""
    observations, rewards, dones, infos = zip(left, right, strict=True)
    for one, other in (observations, rewards, dones):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    for one, other in zip(*infos, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert type(value) is type(other[key])
            np.testing.assert_array_equal(value, other[key])


def assert_batch_equals_singles(n_envs: int, seed: int, n_steps: int, arguments: dict[str, Any]) -> None:
    batch = TMazeVecEnv(n_envs, **arguments)
    singles = DummyVecEnv([lambda: TMazeEnv(**arguments)] * n_envs)
    assert batch.seed(seed) == singles.seed(seed)
    np.testing.assert_array_equal(batch.reset(), singles.reset())
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        oracle = batch.oracle_actions()
        assert oracle.tolist() == singles.env_method("oracle_action") == batch.env_method("oracle_action")
        actions = np.where(rng.random(n_envs) < 0.8, oracle, rng.integers(4, size=n_envs))
        assert_same(batch.step(actions), singles.step(actions))
        for name in ("x", "steps", "goal", "corridor"):
            assert batch.get_attr(name) == singles.get_attr(name)

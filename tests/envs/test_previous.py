"""Properties of the wrappers that show the previous action and reward."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from helpers import SMALL
from sb3_elmur import RecurrentPPO
from sb3_elmur.envs import TMazeEnv, TMazeVecEnv
from sb3_elmur.envs.previous import PreviousActionReward, VecPreviousActionReward

OBSERVATIONS = {
    "flat": spaces.Box(-1.0, 1.0, (3,)),
    "discrete": spaces.Discrete(5),
    "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    "dict": spaces.Dict({"place": spaces.Box(-1.0, 1.0, (2,)), "kind": spaces.Discrete(3)}),
}
ACTIONS = {
    "discrete": spaces.Discrete(4),
    "from -2": spaces.Discrete(3, start=-2),
    "multi": spaces.MultiDiscrete([2, 3]),
    "binary": spaces.MultiBinary(3),
    "box": spaces.Box(-2.0, 2.0, (2, 2)),
}


class Dice(gymnasium.Env):
    """Observations, rewards and ends that depend on nothing but the seed and the step."""

    def __init__(self, observation: str, action: str) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[observation], ACTIONS[action]

    def _observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(1000)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        terminated, truncated = (self.np_random.random(2) < 0.2).tolist()
        return self._observe(), float(np.float32(self.np_random.normal())), terminated, truncated, {}


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, values in one.items():
            np.testing.assert_array_equal(values, other[key])
            assert values.dtype == other[key].dtype
    else:
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@given(st.sampled_from(sorted(OBSERVATIONS)), st.sampled_from(sorted(ACTIONS)), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_batch_equals_the_single_environments(observation: str, action: str, n_envs: int, seed: int) -> None:
    batch = VecPreviousActionReward(DummyVecEnv([lambda: Dice(observation, action)] * n_envs))
    singles = DummyVecEnv([lambda: PreviousActionReward(Dice(observation, action))] * n_envs)
    assert batch.observation_space == singles.observation_space
    batch.seed(seed)
    singles.seed(seed)
    assert_equal(batch.reset(), singles.reset())
    batch.action_space.seed(seed)
    for _ in range(20):
        actions = np.stack([batch.action_space.sample() for _ in range(n_envs)])
        one, other = batch.step(actions), singles.step(actions)
        assert_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
        np.testing.assert_array_equal(one[2], other[2])
        for info, expected in zip(one[3], other[3], strict=True):
            assert info.keys() == expected.keys()
            if "terminal_observation" in info:
                assert_equal(info["terminal_observation"], expected["terminal_observation"])


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.filterwarnings("ignore")
def test_spaces_hold_the_observations(observation: str, action: str) -> None:
    env = PreviousActionReward(Dice(observation, action))
    check_env(env)
    env.reset(seed=0)
    for _ in range(20):
        assert env.observation_space.contains(env.step(env.action_space.sample())[0])


def test_a_vector_gets_the_action_and_the_reward_as_further_numbers() -> None:
    env = PreviousActionReward(TMazeEnv(length=5, reward="eased"))
    first, _ = env.reset(seed=0)
    assert first[4:].tolist() == [0, 0, 0, 0, 0]
    assert env.step(0)[0][4:].tolist() == [1, 0, 0, 0, 0]
    np.testing.assert_allclose(env.step(2)[0][4:], [0, 0, 1, 0, -1 / 5])
    assert env.reset()[0][4:].tolist() == [0, 0, 0, 0, 0]


def test_other_observations_become_a_dict() -> None:
    env = PreviousActionReward(Dice("image", "multi"))
    env.reset(seed=0)
    observation, reward, *_ = env.step(np.array([1, 2]))
    assert observation["observation"].shape == (4, 4, 3)
    assert observation["previous_action"].tolist() == [0, 1, 0, 0, 1]
    assert observation["previous_reward"].tolist() == [reward]


def test_a_dict_with_the_same_keys_and_other_action_spaces_are_refused() -> None:
    env = PreviousActionReward(Dice("dict", "box"))
    with pytest.raises(ValueError, match=r"`observation_space`.*'previous_action'"):
        PreviousActionReward(env)
    other = Dice("flat", "box")
    other.action_space = spaces.Tuple([spaces.Discrete(2)])
    with pytest.raises(ValueError, match=r"`action_space`.*Tuple"):
        PreviousActionReward(other)


def test_yaml_files_name_them() -> None:
    utils = pytest.importorskip("rl_zoo3.utils", reason='rl_zoo3 is missing: pip install "sb3-elmur[zoo]"')
    settings = {
        "env_wrapper": "sb3_elmur.envs.previous.PreviousActionReward",
        "vec_env_wrapper": "sb3_elmur.envs.previous.VecPreviousActionReward",
    }
    env = utils.get_wrapper_class(settings, "env_wrapper")(TMazeEnv())
    batch = utils.get_wrapper_class(settings, "vec_env_wrapper")(TMazeVecEnv(2))
    assert env.observation_space == batch.observation_space


def test_policies_train_on_native_batches_and_reach_their_methods() -> None:
    venv = VecPreviousActionReward(VecMonitor(TMazeVecEnv(4, length=5, seed=0)))
    model = RecurrentPPO("ElmurPolicy", venv, n_steps=16, batch_size=32, n_epochs=1, policy_kwargs=SMALL, seed=0)
    model.learn(64)
    assert len(venv.env_method("oracle_action")) == 4

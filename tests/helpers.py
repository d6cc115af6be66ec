"""Small environments and policies for the tests."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.vec_env import VecEnv

from sb3_elmur import ElmurPolicy
from sb3_elmur.datasets.episodes import Episode, NpzEpisodes

SMALL: dict[str, Any] = {"d_model": 8, "n_heads": 2, "segment_length": 4, "memory_size": 2, "max_distance": 16}

VECTOR = spaces.Box(-1, 1, (3,))
UNBOUNDED = spaces.Box(-np.inf, np.inf, (3,))
TURN = spaces.Discrete(4)
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)  # channels last
DICT = spaces.Dict({"image": IMAGE, "vector": VECTOR})
ACTION_SPACES = [spaces.Discrete(3), spaces.Box(-2, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]


class RandomEnv(gym.Env):
    """Random observations and rewards; episodes of random length, ended by the environment or by a time limit."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, mean_length: float = 6.0) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.mean_length = mean_length

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        terminated, truncated = self.np_random.random(2) < 0.5 / self.mean_length
        return self.observation_space.sample(), float(self.np_random.normal()), bool(terminated), bool(truncated), {}


def random_envs(
    n_envs: int,
    observation_space: spaces.Space = VECTOR,
    action_space: spaces.Space = ACTION_SPACES[0],
    mean_length: float = 6.0,
) -> VecEnv:
    """A batch of seeded :class:`RandomEnv`."""
    return make_vec_env(lambda: RandomEnv(observation_space, action_space, mean_length), n_envs, seed=0)


def make_env(env_id: str) -> gym.Env:
    """An environment; MIKASA-Robo's, which need a simulator, are random ones of the same kind of spaces."""
    if env_id.startswith("Mikasa"):
        return RandomEnv(spaces.Box(-np.inf, np.inf, (25,)), spaces.Box(-1, 1, (8,)))
    return gym.make(env_id)


def without_simulator(env_id: str, patch: pytest.MonkeyPatch) -> None:
    """Let the id of a task of MIKASA-Robo make what :func:`make_env` makes."""
    if env_id.startswith("Mikasa"):
        spec = gym.envs.registration.EnvSpec(env_id, lambda **_: make_env(env_id), max_episode_steps=60)
        patch.setitem(gym.registry, env_id, spec)


def make_model(cls: type[RecurrentPPO], env: VecEnv, policy: str = "ElmurPolicy", **arguments: Any) -> Any:
    """A model with a small policy that visibly learns in a few steps."""
    policy_kwargs = SMALL | {"ortho_init": False} | arguments.pop("policy_kwargs", {})
    arguments = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "learning_rate": 1e-2} | arguments
    return cls(policy, env, policy_kwargs=policy_kwargs, **arguments)


AS_THE_HOST: dict[str, Any] = {"trust_region": None, "scale_rewards": False, "averaging": 0.0, "ent_coef": 0.0}
"""What makes our RecurrentPPO update as sb3-contrib's does."""


class StopAt(BaseCallback):
    """Stops training at a call."""

    def __init__(self, n_calls: int) -> None:
        super().__init__()
        self.limit = n_calls

    def _on_step(self) -> bool:
        return self.n_calls < self.limit


def make_policy(
    observation_space: spaces.Space, action_space: spaces.Space, cls: type[ElmurPolicy] = ElmurPolicy, **arguments: Any
) -> ElmurPolicy:
    """A small policy whose actions visibly depend on its input."""
    policy = cls(observation_space, action_space, lambda _: 1e-3, **(SMALL | {"ortho_init": False} | arguments))
    policy.set_training_mode(False)
    return policy


def replay_differences(model: RecurrentPPO, rollouts: int, **learn: Any) -> list[float]:
    """Before each update of ``rollouts`` rollouts, compare replayed log-probabilities and values to the rollout's."""
    train, differences = model.train, []

    def compare_and_train() -> None:
        for data in model.rollout_buffer.get(model.batch_size):
            actions = data.actions.long().flatten()
            with th.no_grad():
                values, log_prob, _ = model.policy.evaluate_actions(
                    data.observations, actions, data.lstm_states, data.episode_starts
                )
            for new, old in ((log_prob, data.old_log_prob), (values.flatten(), data.old_values)):
                differences.append((new - old)[data.mask > 0].abs().max().item())
        train()

    model.train = compare_and_train
    model.learn(rollouts * model.n_steps * model.n_envs, **learn)
    return differences


def episode_arrays(steps: int = 5, seed: int = 0) -> dict[str, Any]:
    """A random episode, as it is stored."""
    rng = np.random.default_rng(seed)
    return {
        "observation": rng.normal(size=(steps, 3)).astype(np.float32),
        "action": rng.integers(4, size=steps),
        "reward": rng.normal(size=steps).astype(np.float32),
    }


def load_episode(
    folder: Path, observation_space: spaces.Space = UNBOUNDED, action_space: spaces.Space = TURN, **stored: Any
) -> Episode:
    """Write the arrays as the folder's only episode, and read it."""
    np.savez(folder / "train_data_0.npz", **stored)
    return NpzEpisodes(folder, observation_space, action_space)[0]


def assert_episode(episode: Episode, stored: dict[str, Any]) -> None:
    """An episode must be what was stored, bit for bit."""
    for left, key in ((episode.observations, "observation"), (episode.actions, "action"), (episode.rewards, "reward")):
        assert isinstance(left, np.ndarray)
        assert left.dtype == stored[key].dtype
        np.testing.assert_array_equal(left, stored[key])


class Kept(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.dumps: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.dumps.append(dict(key_values))

    def close(self) -> None:
        pass

"""Small environments and policies for the tests."""

from typing import Any

import gymnasium as gym
from gymnasium import spaces

from sb3_elmur import ElmurPolicy

SMALL: dict[str, Any] = {"d_model": 8, "n_heads": 2, "segment_length": 4, "memory_size": 2, "max_distance": 16}


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


def make_policy(
    observation_space: spaces.Space, action_space: spaces.Space, cls: type[ElmurPolicy] = ElmurPolicy, **arguments: Any
) -> ElmurPolicy:
    """A small policy whose actions visibly depend on its input."""
    policy = cls(observation_space, action_space, lambda _: 1e-3, **(SMALL | {"ortho_init": False} | arguments))
    policy.set_training_mode(False)
    return policy

"""An environment in which most actions are invalid, and what it takes to be sure that none of these is taken."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_elmur.spaces import choices

MASKED_SPACES = [
    spaces.Discrete(6),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiBinary(3),
]


def to_flags(action_space: spaces.Space, action: Any) -> np.ndarray:
    """The places in a mask of the choices that an action consists of."""
    entries = np.ravel(action).astype(int) - np.ravel(getattr(action_space, "start", 0))
    sizes = choices(action_space)
    assert sizes is not None
    return np.cumsum([0, *sizes[:-1]]) + entries


class MaskedEnv(gym.Env):
    """
    Random masks, and an error for an invalid action.

    The observation shows nothing of the mask. The reward is 1 for the last valid choice of each entry.
    """

    def __init__(self, action_space: spaces.Space, length: int = 7, show_masks: bool = True) -> None:
        self.observation_space, self.action_space, self.length = spaces.Box(-1, 1, (3,)), action_space, length
        sizes = choices(action_space)
        assert sizes is not None
        self.sizes = sizes
        if show_masks:
            self.action_masks = lambda: self._masks.copy()

    def _observe(self) -> np.ndarray:
        entries = []
        for size in self.sizes:
            entry = self.np_random.random(size) < 0.3
            entry[self.np_random.integers(size)] = True
            entries.append(entry)
        self._masks = np.concatenate(entries)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if not self._masks[to_flags(self.action_space, action)].all():
            raise AssertionError(f"{action} is invalid: {self._masks}")
        self._time += 1
        return self._observe(), float(self.np_random.normal()), self._time == self.length, False, {}

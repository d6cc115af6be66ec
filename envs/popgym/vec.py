"""Many environments of one POPGym task at once, as a Stable-Baselines3 ``VecEnv`` in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..arguments import check_integer
from ..flattening import FlatPart
from ..native import NativeVecEnv
from .batched import BatchedTask
from .cards import Autoencode, CountRecall, HigherLower, RepeatFirst, RepeatPrevious
from .control import CartPole, Noisy, Pendulum
from .env import flatten_space, join_spaces
from .search import Battleship, Concentration, MultiarmedBandit
from .tasks import TASKS
from .tried import check_mask_tried

FAMILIES: dict[str, Callable[..., BatchedTask]] = {
    "Autoencode": Autoencode,
    "Battleship": Battleship,
    "Concentration": Concentration,
    "CountRecall": CountRecall,
    "HigherLower": HigherLower,
    "MultiarmedBandit": MultiarmedBandit,
    "NoisyPositionOnlyCartPole": partial(Noisy, task=CartPole),
    "NoisyPositionOnlyPendulum": partial(Noisy, task=Pendulum),
    "PositionOnlyCartPole": CartPole,
    "PositionOnlyPendulum": Pendulum,
    "RepeatFirst": RepeatFirst,
    "RepeatPrevious": RepeatPrevious,
    "VelocityOnlyCartPole": partial(CartPole, velocities=True),
}
"""What plays the tasks of a family as a batch."""
BATCHED_TASKS = tuple(name for name, task in TASKS.items() if task.family in FAMILIES)


class POPGymVecEnv(NativeVecEnv):
    """
    ``n_envs`` environments of one POPGym task that step together, equal to a ``DummyVecEnv`` of ``POPGymEnv``.

    After ``seed(s)`` (or with ``seed=s``), environment i draws what ``POPGymEnv`` draws after ``reset(seed=s + i)``.
    MineSweeper and the labyrinths have no native batch. popgym need not be installed.

    :param n_envs: Number of environments.
    :param task: One of ``BATCHED_TASKS``.
    :param seed: Seed of the first environment; None seeds from the operating system.
    :param mask_tried: See :class:`~.env.POPGymEnv`.
    :raises ValueError: For a task without a native batch, masks in a task that has none, or ``n_envs`` below 1.
    """

    def __init__(self, n_envs: int, task: str, seed: int | None = None, mask_tried: bool = False) -> None:
        if task not in BATCHED_TASKS:
            raise ValueError(f"`task` must be one of {', '.join(BATCHED_TASKS)}. Received {task!r}.")
        self.task = task
        self.mask_tried = mask_tried
        family, constants = TASKS[task]
        check_mask_tried(family, mask_tried)
        self._states = FAMILIES[family](check_integer("n_envs", n_envs, minimum=1), **constants)
        observed, acted = self._states.observation_space, self._states.action_space
        super().__init__(n_envs, flatten_space(join_spaces(observed, acted)), acted, seed=seed)
        self._observed = FlatPart(observed, 0)
        self._acted = FlatPart(acted, self._observed.end)
        self._null_actions = np.zeros_like(self._actions)

    @classmethod
    def supports(cls, **arguments: Any) -> bool:
        """Tell whether the batch plays the single environment of these arguments, which must not render."""
        return {"task"} <= arguments.keys() <= {"task", "mask_tried"} and arguments["task"] in BATCHED_TASKS

    def _methods(self) -> dict[str, Callable[..., Any]]:
        return {"action_masks": self._untried} if self.mask_tried else {}

    def _untried(self, i: int) -> np.ndarray:
        return ~self._states.tried(i)

    def _start(self, rows: np.ndarray) -> np.ndarray:
        for i in rows.tolist():
            self._states.start(i, self._rngs[i])
        return self._observe(rows, self._null_actions[rows], flag=1)

    def _step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        rewards, terminated, truncated = self._states.step(actions)
        return self._observe(self._all, actions, flag=0), rewards.astype(np.float32), terminated, truncated

    def _observe(self, rows: np.ndarray, actions: np.ndarray, flag: int) -> np.ndarray:
        observations = np.zeros((len(rows), self._acted.end + 2), dtype=np.float32)
        self._observed.write(observations, self._states.observation[rows])
        self._acted.write(observations, actions)
        observations[:, self._acted.end + flag] = 1
        return observations

"""Many environments of one POPGym task at once, as a Stable-Baselines3 ``VecEnv`` in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from ..arguments import check_integer
from ..native import NativeVecEnv
from .batched import BatchedTask
from .cards import COLORS, RANKS, SUITS, Autoencode, CountRecall, HigherLower, RepeatFirst, RepeatPrevious
from .control import CartPole, Noisy, Pendulum
from .env import LEVELS, flatten_space, join_spaces
from .search import Battleship, Concentration, MultiarmedBandit

NOISY_LEVELS = ({"sigma": 0.1}, {"sigma": 0.2}, {"sigma": 0.3})
FAMILIES: dict[str, tuple[Callable[..., BatchedTask], tuple[dict[str, Any], ...]]] = {
    "Autoencode": (Autoencode, ({"n_decks": 1}, {"n_decks": 2}, {"n_decks": 3})),
    "Battleship": (Battleship, ({"size": 8}, {"size": 10}, {"size": 12})),
    "Concentration": (
        Concentration,
        ({"n_decks": 1, "feature": COLORS}, {"n_decks": 2, "feature": COLORS}, {"n_decks": 1, "feature": RANKS}),
    ),
    "CountRecall": (
        CountRecall,
        ({"n_decks": 1, "feature": COLORS}, {"n_decks": 2, "feature": SUITS}, {"n_decks": 4, "feature": RANKS}),
    ),
    "HigherLower": (HigherLower, ({"n_decks": 1}, {"n_decks": 2}, {"n_decks": 3})),
    "MultiarmedBandit": (
        MultiarmedBandit,
        ({"n_arms": 10, "limit": 200}, {"n_arms": 20, "limit": 400}, {"n_arms": 30, "limit": 600}),
    ),
    "NoisyPositionOnlyCartPole": (partial(Noisy, task=CartPole, limit=200), NOISY_LEVELS),
    "NoisyPositionOnlyPendulum": (partial(Noisy, task=Pendulum, limit=200), NOISY_LEVELS),
    "PositionOnlyCartPole": (CartPole, ({"limit": 200}, {"limit": 400}, {"limit": 600})),
    "PositionOnlyPendulum": (Pendulum, ({"limit": 200}, {"limit": 150}, {"limit": 100})),
    "RepeatFirst": (RepeatFirst, ({"n_decks": 1}, {"n_decks": 8}, {"n_decks": 16})),
    "RepeatPrevious": (RepeatPrevious, ({"n_decks": 1, "k": 4}, {"n_decks": 2, "k": 32}, {"n_decks": 3, "k": 64})),
    "VelocityOnlyCartPole": (partial(CartPole, velocities=True), ({"limit": 200}, {"limit": 400}, {"limit": 600})),
}
BATCHED_TASKS = {
    f"{family}{level}": partial(make, **arguments)
    for family, (make, levels) in FAMILIES.items()
    for level, arguments in zip(LEVELS, levels, strict=True)
}


class FlatPart:
    """The columns of one part of a flattened observation.

    :param space: of the part: ``Discrete``, ``MultiDiscrete`` or ``Box``
    :param first: first column
    """

    def __init__(self, space: spaces.Space, first: int) -> None:
        self.end = first + spaces.flatdim(space)
        self.columns = slice(first, self.end)
        sizes = np.array([space.n]) if isinstance(space, spaces.Discrete) else getattr(space, "nvec", None)
        self.offsets = None if sizes is None else first + np.cumsum(sizes) - sizes

    def write(self, out: np.ndarray, values: np.ndarray) -> None:
        """Write values into ``out``, which holds zeros.

        :param out: flattened observations, shape (B, n_columns)
        :param values: elements of the space, shape (B, n_values)
        """
        if self.offsets is None:
            out[:, self.columns] = values
        else:
            out[np.arange(len(out))[:, None], self.offsets + values] = 1


class POPGymVecEnv(NativeVecEnv):
    """``n_envs`` environments of one POPGym task that step together, equal to a ``DummyVecEnv`` of ``POPGymEnv``.

    After ``seed(s)`` (or with ``seed=s``), environment i draws what ``POPGymEnv`` draws after ``reset(seed=s + i)``.
    MineSweeper and the labyrinths have no native batch. popgym need not be installed.

    :param n_envs: number of environments
    :param task: one of ``BATCHED_TASKS``
    :param seed: seed of the first environment; None seeds from the operating system
    :raises ValueError: for a task without a native batch, or ``n_envs`` below 1
    """

    def __init__(self, n_envs: int, task: str, seed: int | None = None) -> None:
        if task not in BATCHED_TASKS:
            raise ValueError(f"`task` must be one of {', '.join(BATCHED_TASKS)}. Received {task!r}.")
        self.task = task
        self._states = BATCHED_TASKS[task](check_integer("n_envs", n_envs, minimum=1))
        observed, acted = self._states.observation_space, self._states.action_space
        super().__init__(n_envs, flatten_space(join_spaces(observed, acted)), acted, seed=seed)
        self._observed = FlatPart(observed, 0)
        self._acted = FlatPart(acted, self._observed.end)
        self._null_actions = np.zeros_like(self._actions)

    @classmethod
    def supports(cls, **arguments: Any) -> bool:
        """Tell whether the batch plays the single environment of these arguments, which must not render."""
        return arguments.keys() == {"task"} and arguments["task"] in BATCHED_TASKS

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
        self._acted.write(observations, actions.reshape(len(rows), -1))
        observations[:, self._acted.end + flag] = 1
        return observations

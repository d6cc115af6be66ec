"""What a POPGym task is to a native batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from gymnasium import spaces


class BatchedTask(ABC):
    """
    Hidden states of ``n_envs`` episodes of one task of POPGym, which step together.

    ``observation`` holds what popgym's own environments would show at the moment, shape (n_envs, n_values), before any
    flattening: integers where their space is discrete, float32 where it is a ``Box``.

    :param n_envs: Number of episodes B.
    :param observation_space: Popgym's, but ``MultiDiscrete`` for a tuple of discrete spaces.
    :param action_space: Popgym's, but ``Discrete`` for row and column.
    """

    def __init__(self, n_envs: int, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.observation = np.zeros((n_envs, *(observation_space.shape or (1,))), dtype=observation_space.dtype)
        self.steps = np.zeros(n_envs, dtype=np.int64)
        self.rows = np.arange(n_envs)

    @abstractmethod
    def start(self, row: int, rng: np.random.Generator) -> None:
        """
        Start an episode with the draws that popgym makes, in their order.

        :param row: Which of the episodes to replace.
        :param rng: The generator of this row.
        """

    @abstractmethod
    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Take one step in all episodes.

        :param actions: Elements of the action space, shape (n_envs, ...).
        :return: Rewards, terminated and truncated, each of shape (n_envs,).
        """

    def tried(self, row: int) -> np.ndarray:
        """
        Tell which actions were already tried, in tasks in which every action uncovers a place.

        :param row: Index of the episode.
        :return: Bool, shape (n_actions,).
        """
        raise NotImplementedError

    def never(self) -> np.ndarray:
        """Return False for every episode."""
        return np.zeros(len(self.rows), dtype=bool)


class EpisodeDraws:
    """
    Random numbers that popgym draws step by step, of which a whole episode's are drawn at its start.

    They come from a copy of the row's generator. The generator itself follows when the row's next episode starts, by as much
    as the last one used, so that starting states are popgym's too.

    :param n_envs: Number of rows.
    :param draw: Draws the numbers of so many steps from a generator; a function of a module, so that batches can be pickled.
    """

    def __init__(self, n_envs: int, draw: Callable[[np.random.Generator, int], np.ndarray]) -> None:
        self._draw = draw
        self._copy = np.random.default_rng()
        self._drawn_from: list[np.random.Generator | None] = [None] * n_envs

    def catch_up(self, row: int, rng: np.random.Generator, n_steps: int) -> None:
        """
        Move a generator past what the row's last episode used.

        :param row: Index of the episode.
        :param rng: Generator of the row; stays where it is if the last episode had another one.
        :param n_steps: Steps whose numbers were used.
        """
        if self._drawn_from[row] is rng:
            self._draw(rng, n_steps)

    def ahead(self, row: int, rng: np.random.Generator, n_steps: int) -> np.ndarray:
        """
        Draw the numbers of an episode.

        :param row: Index of the episode.
        :param rng: Generator of the row; stays where it is.
        :param n_steps: Steps that the episode may last.
        :return: Their numbers, shape (n_steps, ...).
        """
        self._drawn_from[row] = rng
        self._copy.bit_generator.state = rng.bit_generator.state
        return self._draw(self._copy, n_steps)

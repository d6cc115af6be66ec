"""The tasks of POPGym in which every action uncovers a place, and the agent has to remember which."""

from __future__ import annotations

import math

import numpy as np
from gymnasium import spaces

from .batched import BatchedTask, EpisodeDraws
from .cards import shuffle
from .tasks import DECK_SIZE, SHIPS, Feature


class Concentration(BatchedTask):
    """
    Turn cards over, two a turn, to find pairs.

    The observation is the value of every card that lies face up, and ``feature.size`` for every other.

    :param n_envs: Number of episodes.
    :param n_decks: Decks that lie on the table.
    :param feature: What two cards of a pair have in common.
    """

    def __init__(self, n_envs: int, n_decks: int, feature: Feature) -> None:
        self.n_cards, self.feature = n_decks * DECK_SIZE, feature
        super().__init__(n_envs, spaces.MultiDiscrete([feature.size + 1] * self.n_cards), spaces.Discrete(self.n_cards))
        self.limit = math.ceil(2 * self.n_cards - self.n_cards / (2 * self.n_cards - 1))
        self.values = np.zeros((n_envs, self.n_cards), dtype=np.int64)
        self.found = np.zeros((n_envs, self.n_cards), dtype=bool)
        self.first = np.full(n_envs, -1)

    def start(self, row: int, rng: np.random.Generator) -> None:
        """See :class:`BatchedTask`."""
        self.values[row] = self.feature.of(shuffle(self.n_cards, rng))
        self.found[row] = False
        self.first[row] = -1
        self.steps[row] = 0
        self.observation[row] = self.feature.size

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`BatchedTask`."""
        rows, second = self.rows, self.first >= 0
        first = np.where(second, self.first, actions)
        known = self.found[rows, actions]
        shown = self.found.copy()
        shown[rows, first] = shown[rows, actions] = True
        self.observation = np.where(shown, self.values, self.feature.size)
        alike = (self.values[rows, first] == self.values[rows, actions]) & (first != actions)
        pair = second & ~known & alike
        self.found[pair, first[pair]] = self.found[pair, actions[pair]] = True
        over = second | known
        self.first = np.where(over, -1, actions)
        self.steps += 1
        penalty = np.where(over, -1 / self.limit * (1 + second), 0.0)
        rewards = np.where(pair, 1 / (self.n_cards // 2), penalty)
        return rewards, pair & self.found.all(axis=1), self.steps >= self.limit

    def tried(self, row: int) -> np.ndarray:
        """See :class:`BatchedTask`: cards that lie face up."""
        face_up = self.found[row].copy()
        if self.first[row] >= 0:
            face_up[self.first[row]] = True
        return face_up


class Battleship(BatchedTask):
    """
    Sink ships on a board that only tells hit (1) from miss (0). Actions are cells in reading order.

    :param n_envs: Number of episodes.
    :param size: Width and height of the board.
    """

    def __init__(self, n_envs: int, size: int) -> None:
        super().__init__(n_envs, spaces.Discrete(2), spaces.Discrete(size**2))
        self.size, self.limit, self.n_targets = size, size**2, sum(SHIPS)
        self.afloat = np.zeros((n_envs, size, size), dtype=bool)
        self.guessed = np.zeros((n_envs, size**2), dtype=bool)
        self.hits = np.zeros(n_envs, dtype=np.int64)

    def start(self, row: int, rng: np.random.Generator) -> None:
        """See :class:`BatchedTask`."""
        self.afloat[row] = self.guessed[row] = False
        for length in SHIPS:
            self._place(self.afloat[row], length, rng)
        self.hits[row] = self.steps[row] = 0
        self.observation[row] = 0

    def _place(self, board: np.ndarray, length: int, rng: np.random.Generator) -> None:
        while True:
            end = rng.integers(self.size, size=2)
            axis, backwards = rng.integers(2, size=2)
            low, high = end.copy(), end + 1
            if backwards:
                low[axis] -= length - 1
            else:
                high[axis] += length - 1
            ship = board[low[0] : high[0], low[1] : high[1]]
            if low.min() >= 0 and high.max() <= self.size and not ship.any():
                ship[:] = True
                return

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`BatchedTask`."""
        place = self.rows, *np.divmod(actions, self.size)
        hit = self.afloat[place]
        self.afloat[place] = False
        self.guessed[self.rows, actions] = True
        self.hits += hit
        self.steps += 1
        self.observation[:, 0] = hit
        rewards = np.where(hit, 1 / self.n_targets, -1 / (self.limit - self.n_targets))
        return rewards, self.hits == self.n_targets, self.steps >= self.limit

    def tried(self, row: int) -> np.ndarray:
        """See :class:`BatchedTask`."""
        return self.guessed[row]


class MultiarmedBandit(BatchedTask):
    """
    Find the arms that pay (1) most often.

    :param n_envs: Number of episodes.
    :param n_arms: Number of arms.
    :param limit: Steps of an episode.
    """

    def __init__(self, n_envs: int, n_arms: int, limit: int) -> None:
        super().__init__(n_envs, spaces.Discrete(2), spaces.Discrete(n_arms))
        self.limit = limit
        self.chances = np.zeros((n_envs, n_arms), dtype=np.float32)
        self.luck = np.zeros((n_envs, limit), dtype=np.float32)
        self._draws = EpisodeDraws(n_envs, np.random.Generator.random)

    def start(self, row: int, rng: np.random.Generator) -> None:
        """See :class:`BatchedTask`."""
        self._draws.catch_up(row, rng, self.steps[row])
        self.chances[row] = rng.random(self.chances.shape[1], dtype=np.float32)
        self.luck[row] = self._draws.ahead(row, rng, self.limit)
        self.steps[row] = 0
        self.observation[row] = 0

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`BatchedTask`."""
        paid = self.luck[self.rows, self.steps] < self.chances[self.rows, actions]
        self.steps += 1
        self.observation[:, 0] = paid
        return np.where(paid, 1, -1) / self.limit, self.never(), self.steps >= self.limit

"""Expert of the three bandit tasks."""

import numpy as np

from .base import Expert


class MultiarmedBandit(Expert):
    """
    Play the arm with the largest upper confidence bound, the first one among equals.

    With the Beta(1, 1) posterior of each arm, of mean m and standard deviation s after n plays, the bound is
    m + 0.7 s sqrt(log(1 + h / (n + 3))), where h are the steps left: an approximation to the finite-horizon Gittins index
    (Brezzi and Lai 2002). Untouched arms have the same bound, so arms are tried from left to right.

    :param n_arms: Number of arms.
    :param limit: Steps of an episode.
    """

    EXPLORATION = 0.7

    def __init__(self, n_arms: int, limit: int) -> None:
        self._n_arms = n_arms
        self._limit = limit

    def _start(self, observation: int) -> None:
        self._wins = np.ones(self._n_arms)
        self._plays = np.full(self._n_arms, 2)
        self._left = self._limit

    def _update(self, observation: int, action: int) -> None:
        self._wins[action] += observation
        self._plays[action] += 1
        self._left = max(self._left - 1, 0)

    def act(self) -> int:
        """Return the arm to play."""
        mean = self._wins / self._plays
        deviation = np.sqrt(mean * (1 - mean) / (self._plays + 1))
        bonus = self.EXPLORATION * deviation * np.sqrt(np.log1p(self._left / (self._plays + 1)))
        return int(np.argmax(mean + bonus))

"""Experts of the tasks that ask to count cards, or where they lie."""

from typing import Any

import numpy as np

from ..tasks import DECK_SIZE, RANKS, Feature
from .base import Expert


class CountRecall(Expert):
    """
    Say how often the queried card was dealt, the one on show included; returns exactly 1.

    :param feature: What tells cards apart.
    """

    def __init__(self, feature: Feature) -> None:
        self._n_values = feature.size

    def _start(self, observation: np.ndarray) -> None:
        self._counts = [0] * self._n_values
        self._update(observation, None)

    def _update(self, observation: np.ndarray, action: Any) -> None:
        card, self._query = observation.tolist()
        self._counts[card] += 1

    def act(self) -> int:
        """Return the count."""
        return self._counts[self._query]


class HigherLower(Expert):
    """
    Bet on the side of the card on show where more cards are left, on "higher" if there are as many on both.

    No bet changes what comes next, so this is optimal.

    :param n_decks: Decks that are dealt.
    """

    def __init__(self, n_decks: int) -> None:
        self._copies = n_decks * DECK_SIZE // RANKS.size

    def _start(self, observation: int) -> None:
        self._left = [self._copies] * RANKS.size
        self._update(observation, None)

    def _update(self, observation: int, action: Any) -> None:
        self._rank = observation
        self._left[observation] -= 1

    def act(self) -> int:
        """Return 0 for "higher" or 1 for "lower"."""
        return int(sum(self._left[self._rank + 1 :]) < sum(self._left[: self._rank]))


class Concentration(Expert):
    """
    Remember every card that was turned, and waste no turn on what is known.

    A known pair is turned; failing that an unknown card, and then its mate if that is known, else another unknown card.
    Among equals the card with the lowest index is turned, so that unknown cards are turned from left to right.

    :param feature: What two cards of a pair have in common; an observation holds its size for a card that lies face down.
    """

    def __init__(self, feature: Feature) -> None:
        self._n_values = feature.size

    def _start(self, observation: np.ndarray) -> None:
        self._values = np.full(observation.shape, self._n_values)
        self._matched = np.zeros(observation.shape, dtype=bool)
        self._turned: int | None = None

    def _update(self, observation: np.ndarray, action: int) -> None:
        visible = observation < self._n_values
        self._values[visible] = observation[visible]
        first, self._turned = self._turned, None
        if self._matched[action]:
            return
        if first is None:
            self._turned = int(action)
        elif first != action and self._values[first] == self._values[action]:
            self._matched[[first, action]] = True

    def act(self) -> int:
        """Return the index of the card to turn."""
        values = np.where(self._matched, -1, self._values)
        if self._turned is not None:
            mates = np.flatnonzero(values == values[self._turned])
            mates = mates[mates != self._turned]
            return int(mates[0]) if mates.size else self._first_unknown(values)
        counts = np.bincount(values[~self._matched], minlength=self._n_values)[: self._n_values]
        paired = np.flatnonzero(counts >= 2)
        return int(np.flatnonzero(values == paired[0])[0]) if paired.size else self._first_unknown(values)

    def _first_unknown(self, values: np.ndarray) -> int:
        unknown = np.flatnonzero(values == self._n_values)
        return int(unknown[0]) if unknown.size else 0

"""The tasks of POPGym in which a shuffled deck is dealt, one card a step."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from gymnasium import spaces

from .batched import BatchedTask
from .tasks import DECK_SIZE, RANKS, SUITS, Feature


def shuffle(n_cards: int, rng: np.random.Generator) -> np.ndarray:
    """
    Shuffle cards as popgym does.

    :param n_cards: 52 for each deck.
    :param rng: Source of the draws.
    :return: Cards, numbered in the order of new decks, shape (n_cards,).
    """
    cards = np.arange(n_cards)
    rng.shuffle(cards)
    return cards


def deal(n_cards: int, rng: np.random.Generator) -> np.ndarray:
    """
    Shuffle cards and deal them as popgym does, from the end of the deck.

    :param n_cards: 52 for each deck.
    :param rng: Source of the draws.
    :return: Cards in the order in which they are dealt, shape (n_cards,).
    """
    return shuffle(n_cards, rng)[::-1]


class DealtCards(BatchedTask):
    """
    A task that deals its cards one by one and shows a feature of the latest in a column of the observation.

    :param n_envs: Number of episodes.
    :param n_decks: Decks that are dealt.
    :param feature: What is shown of a card.
    :param observation_space: See :class:`BatchedTask`.
    :param action_space: See :class:`BatchedTask`.
    """

    column: ClassVar[int] = -1

    def __init__(
        self, n_envs: int, n_decks: int, feature: Feature, observation_space: spaces.Space, action_space: spaces.Space
    ) -> None:
        super().__init__(n_envs, observation_space, action_space)
        self.n_cards, self.feature = n_decks * DECK_SIZE, feature
        self.cards = np.zeros((n_envs, self.n_cards), dtype=np.int64)

    def start(self, row: int, rng: np.random.Generator) -> None:
        """See :class:`BatchedTask`."""
        self.cards[row] = self.feature.of(deal(self.n_cards, rng))
        self.steps[row] = 0
        self.observation[row, self.column] = self.cards[row, 0]

    def show_next(self) -> np.ndarray:
        """Show the next card of every episode; tell where it is the last."""
        self.steps += 1
        self.observation[:, self.column] = self.cards[self.rows, self.steps]
        return self.steps == self.n_cards - 1


class RepeatFirst(DealtCards):
    """
    Name the suit of the first card, at every step.

    :param n_envs: Number of episodes.
    :param n_decks: Decks that are dealt.
    """

    def __init__(self, n_envs: int, n_decks: int) -> None:
        super().__init__(n_envs, n_decks, SUITS, spaces.Discrete(SUITS.size), spaces.Discrete(SUITS.size))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`BatchedTask`."""
        rewards = np.where(actions == self.cards[:, 0], 1, -1) / (self.n_cards - 1)
        return rewards, self.show_next(), self.never()


class RepeatPrevious(DealtCards):
    """
    Name the suit of the card shown ``k - 1`` steps ago.

    :param n_envs: Number of episodes.
    :param n_decks: Decks that are dealt.
    :param k: Delay; 1 is the card shown now.
    """

    def __init__(self, n_envs: int, n_decks: int, k: int) -> None:
        super().__init__(n_envs, n_decks, SUITS, spaces.Discrete(SUITS.size), spaces.Discrete(SUITS.size))
        self.k = k

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`BatchedTask`."""
        asked = self.steps - self.k + 1
        right = actions == self.cards[self.rows, asked]
        rewards = np.where(asked < 0, 0, np.where(right, 1, -1)) / (self.n_cards - self.k)
        return rewards, self.show_next(), self.never()


class Autoencode(DealtCards):
    """
    Watch all cards, then name their suits in reverse order.

    The observation is the mode (1 watch, 0 play) and a suit, which says nothing after the first moment of playing.

    :param n_envs: Number of episodes.
    :param n_decks: Decks that are dealt.
    """

    def __init__(self, n_envs: int, n_decks: int) -> None:
        super().__init__(n_envs, n_decks, SUITS, spaces.MultiDiscrete([2, SUITS.size]), spaces.Discrete(SUITS.size))

    def start(self, row: int, rng: np.random.Generator) -> None:
        """See :class:`BatchedTask`."""
        super().start(row, rng)
        self.observation[row, 0] = 1

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`BatchedTask`."""
        last = self.n_cards - 1
        asked = 2 * last - self.steps
        playing = asked <= last
        right = actions == self.cards[self.rows, np.minimum(asked, last)]
        rewards = np.where(playing, np.where(right, 1, -1), 0) / self.n_cards
        self.steps += 1
        self.observation[:, 0] = self.steps < last
        self.observation[:, 1] = np.where(playing, 0, self.cards[self.rows, np.minimum(self.steps, last)])
        return rewards, asked == 0, self.never()


class HigherLower(DealtCards):
    """
    Guess whether the next card's rank is higher (0) or lower (1).

    :param n_envs: Number of episodes.
    :param n_decks: Decks that are dealt.
    """

    def __init__(self, n_envs: int, n_decks: int) -> None:
        super().__init__(n_envs, n_decks, RANKS, spaces.Discrete(RANKS.size), spaces.Discrete(2))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`BatchedTask`."""
        shown = self.observation[:, 0].copy()
        last = self.show_next()
        rewards = np.sign(self.observation[:, 0] - shown) * np.where(actions == 0, 1, -1) / self.n_cards
        return rewards, last, self.never()


class CountRecall(DealtCards):
    """
    Tell how often the card asked for was dealt, the one shown with the question included.

    :param n_envs: Number of episodes.
    :param n_decks: Decks that are dealt, and others that are asked for.
    :param feature: What tells cards apart.
    """

    column = 0

    def __init__(self, n_envs: int, n_decks: int, feature: Feature) -> None:
        most = n_decks * DECK_SIZE // feature.size
        super().__init__(n_envs, n_decks, feature, spaces.MultiDiscrete([feature.size] * 2), spaces.Discrete(most + 1))
        self.questions = np.zeros_like(self.cards)
        self.counts = np.zeros((n_envs, feature.size), dtype=np.int64)

    def start(self, row: int, rng: np.random.Generator) -> None:
        """See :class:`BatchedTask`."""
        super().start(row, rng)
        self.questions[row] = self.feature.of(deal(self.n_cards, rng))
        self.observation[row, 1] = self.questions[row, 0]
        self.counts[row] = 0
        self.counts[row, self.cards[row, 0]] = 1

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`BatchedTask`."""
        right = actions == self.counts[self.rows, self.observation[:, 1]]
        last = self.show_next()
        self.observation[:, 1] = self.questions[self.rows, self.steps]
        self.counts[self.rows, self.observation[:, 0]] += 1
        return np.where(right, 1, -1) / (self.n_cards - 1), last, self.never()

"""Experts of the tasks that ask for cards seen before; each returns exactly 1."""

from collections import deque

from .base import Expert

PLAY = 0


class RepeatFirst(Expert):
    """Name the suit of the first card."""

    def _start(self, observation: int) -> None:
        self._first = observation

    def _update(self, observation: int, action: int) -> None:
        pass

    def act(self) -> int:
        """Return the suit, 0 to 3."""
        return self._first


class RepeatPrevious(Expert):
    """
    Name the suit of the card ``k - 1`` steps ago; 0, which costs nothing, while there is none.

    :param k: Cards to remember, the one on show included.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._cards: deque[int] = deque(maxlen=k)

    def _start(self, observation: int) -> None:
        self._cards.clear()
        self._cards.append(observation)

    def _update(self, observation: int, action: int) -> None:
        self._cards.append(observation)

    def act(self) -> int:
        """Return the suit, 0 to 3."""
        return self._cards[0] if len(self._cards) == self._k else 0


class Autoencode(Expert):
    """
    Watch the cards, choosing 0, then name their suits in reverse order.

    The first observation that asks for a suit still shows a new card, the last one of the deck.
    """

    def _start(self, observation: tuple[int, int]) -> None:
        self._suits = [observation[1]]
        self._playing = False

    def _update(self, observation: tuple[int, int], action: int) -> None:
        mode, suit = observation
        if self._playing:
            self._suits.pop()
        else:
            self._suits.append(suit)
            self._playing = mode == PLAY

    def act(self) -> int:
        """Return the suit, 0 to 3."""
        return self._suits[-1] if self._playing and self._suits else 0

"""POPGym's 48 tasks: 16 families at three levels, and the numbers in which the levels differ."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

DECK_SIZE = 52
SHIPS = (2, 3, 3, 4)
"""Lengths of Battleship's ships, in cells."""


class Feature(NamedTuple):
    """
    What tells cards apart in a task.

    :param size: Number of values.
    :param repeats: Neighbours in a new deck that share a value.
    """

    size: int
    repeats: int = 1

    def of(self, cards: np.ndarray) -> np.ndarray:
        """
        Read off the values of cards.

        :param cards: As popgym numbers them, from 0 in the order of a new deck, any shape.
        :return: Values from 0 to ``size - 1``, same shape.
        """
        return cards // self.repeats % self.size


COLORS, SUITS, RANKS = Feature(2), Feature(4), Feature(13, repeats=4)

LEVELS = ("Easy", "Medium", "Hard")
FAMILIES: dict[str, dict[str, tuple[Any, Any, Any]]] = {
    "Autoencode": {"n_decks": (1, 2, 3)},
    "Battleship": {"size": (8, 10, 12)},
    "Concentration": {"n_decks": (1, 2, 1), "feature": (COLORS, COLORS, RANKS)},
    "CountRecall": {"n_decks": (1, 2, 4), "feature": (COLORS, SUITS, RANKS)},
    "HigherLower": {"n_decks": (1, 2, 3)},
    "LabyrinthEscape": {},
    "LabyrinthExplore": {},
    "MineSweeper": {"size": (4, 6, 8), "n_mines": (2, 6, 10)},
    "MultiarmedBandit": {"n_arms": (10, 20, 30), "limit": (200, 400, 600)},
    "NoisyPositionOnlyCartPole": {"sigma": (0.1, 0.2, 0.3), "limit": (200, 200, 200)},
    "NoisyPositionOnlyPendulum": {"sigma": (0.1, 0.2, 0.3), "limit": (200, 200, 200)},
    "PositionOnlyCartPole": {"limit": (200, 400, 600)},
    "PositionOnlyPendulum": {"limit": (200, 150, 100)},
    "RepeatFirst": {"n_decks": (1, 8, 16)},
    "RepeatPrevious": {"n_decks": (1, 2, 3), "k": (4, 32, 64)},
    "VelocityOnlyCartPole": {"limit": (200, 400, 600)},
}
"""By family, and by the name of a number, its values at the three levels."""


class Task(NamedTuple):
    """
    One of the 48 tasks.

    :param family: Its family.
    :param constants: By name, what sets its level apart.
    """

    family: str
    constants: dict[str, Any]


TASKS = {
    f"{family}{level}": Task(family, {name: values[i] for name, values in numbers.items()})
    for family, numbers in FAMILIES.items()
    for i, level in enumerate(LEVELS)
}
"""By name, which is popgym's for the class."""


def find_task(name: str) -> Task:
    """
    Look a task up.

    :param name: One of ``TASKS``, such as "RepeatFirstEasy".
    :return: Its family and its numbers.
    :raises ValueError: If there is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}. Received {name!r}.")
    return TASKS[name]

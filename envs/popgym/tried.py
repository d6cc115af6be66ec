"""What was already tried in the tasks of POPGym in which every action uncovers a place, for action masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

VIEWED = 2  # a cell of popgym's MineSweeper that was opened


def guessed(base: Any) -> np.ndarray:
    """
    Tell which cells of Battleship were fired at.

    :param base: Popgym's environment.
    :return: Bool, shape (cells,).
    """
    return base.guesses.ravel() == 1


def opened(base: Any) -> np.ndarray:
    """
    Tell which cells of MineSweeper were opened.

    :param base: Popgym's environment.
    :return: Bool, shape (cells,).
    """
    return base.hidden_grid.ravel() == VIEWED


def face_up(base: Any) -> np.ndarray:
    """
    Tell which cards of Concentration lie face up: those of found pairs, and the first of a turn.

    :param base: Popgym's environment.
    :return: Bool, shape (cards,).
    """
    tried = np.zeros(base.deck.num_cards, dtype=bool)
    tried[[*base.deck["face_up_idx"], *base.deck["in_play_idx"]]] = True
    return tried


TRIED: dict[str, Callable[[Any], np.ndarray]] = {
    "Battleship": guessed,
    "Concentration": face_up,
    "MineSweeper": opened,
}
"""By family of tasks, what tells which actions were already tried."""


def check_mask_tried(family: str, mask_tried: bool) -> None:
    """
    Refuse masks where actions are not places to try.

    :param family: Of the task.
    :param mask_tried: Whether there are to be masks.
    :raises ValueError: If the family has none.
    """
    if mask_tried and family not in TRIED:
        raise ValueError(f"`mask_tried` must be False for {family}; it is for {', '.join(TRIED)}. Received {mask_tried!r}.")

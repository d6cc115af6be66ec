"""Expert of the three Battleship tasks."""

from __future__ import annotations

import numpy as np

from ..tasks import SHIPS
from .base import Expert

HIT = {"beside": 30, "diagonal": -15, "two away": 0}
MISS = {"beside": -8, "diagonal": 0, "two away": -4}


def count_placements(board_size: int) -> np.ndarray:
    """
    Count in how many ways the ships can cover each cell of an empty board.

    :param board_size: Width and height of the board in cells.
    :return: Counts in reading order, shape (cells,).
    """
    starts = [np.arange(board_size - ship_size + 1)[:, None] + np.arange(ship_size) for ship_size in SHIPS]
    along = np.bincount(np.concatenate([start.ravel() for start in starts]), minlength=board_size)
    return (along[:, None] + along).ravel()  # (rows, columns) to (cells,)


def weigh_cells(board_size: int, weights: dict[str, int]) -> np.ndarray:
    """
    Weigh what a shot says for each cell.

    :param board_size: Width and height of the board in cells.
    :param weights: What it says for a cell beside it, diagonally from it, and two away in its row or column.
    :return: Array (cells shot at, cells).
    """
    rows, columns = np.divmod(np.arange(board_size**2), board_size)
    down, across = abs(rows[:, None] - rows), abs(columns[:, None] - columns)
    return (
        weights["beside"] * (down + across == 1)
        + weights["diagonal"] * ((down == 1) & (across == 1))
        + weights["two away"] * ((down + across == 2) & (down != across))
    )


class Battleship(Expert):
    """
    Shoot at the cell for which the shots so far say most, the first one among equals.

    Every cell begins with the number of ways in which ships can cover it, and every shot adds to its neighbours: a hit to
    those beside it, which likely are of the same ship, and a miss takes from those in its row and column. A sum over what was
    seen is as simple to clone as an expert can be; benchmarks/popgym_experts.py tells what it returns.

    :param size: Width and height of the board in cells.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._placements = count_placements(size)
        self._says = [weigh_cells(size, weights) for weights in (MISS, HIT)]

    def _start(self, observation: int) -> None:
        self._score = self._placements.copy()
        self._shot = np.zeros(self._size**2, dtype=bool)

    def _update(self, observation: int, action: np.ndarray) -> None:
        cell = int(action[0]) * self._size + int(action[1])
        if not self._shot[cell]:
            self._score += self._says[observation][cell]
        self._shot[cell] = True

    def act(self) -> np.ndarray:
        """Return the row and column to shoot at, shape (2,)."""
        cell = np.where(self._shot, self._score.min() - 1, self._score).argmax()
        return np.array(divmod(int(cell), self._size))

"""Expert of the three MineSweeper tasks."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np

from .base import Expert


@lru_cache
def patterns(n_cells: int, n_mines: int) -> np.ndarray:
    """Return all ways to hide mines under cells: a uint8 array (ways, ``n_cells``), 1 for a mine."""
    ways = np.zeros((comb(n_cells, n_mines), n_cells), dtype=np.uint8)
    for way, mines in zip(ways, combinations(range(n_cells), n_mines), strict=True):
        way[list(mines)] = 1
    return ways


def adjacency(width: int) -> np.ndarray:
    """Return whether two cells of a square board of ``width`` cells touch: a bool array (cells, cells)."""
    rows, columns = np.divmod(np.arange(width**2), width)
    return np.maximum(abs(rows[:, None] - rows), abs(columns[:, None] - columns)) == 1


class MineSweeper(Expert):
    """
    Open the cell that least likely hides a mine, by the exact posterior.

    Among safe cells it opens the first one in reading order; among equally likely mines, first the one with the fewest
    closed neighbours, whose number most likely is a zero.

    The border are the closed cells next to open ones. All arrangements of mines under it that explain the numbers seen are
    kept, and each has as many completions as there are ways to hide the other mines under the other cells.

    :param width: width and height of the board in cells
    :param n_mines: number of mines
    """

    def __init__(self, width: int, n_mines: int) -> None:
        self._width = width
        self._n_mines = n_mines
        self._adjacency = adjacency(width)

    def _start(self, observation: int) -> None:
        n_cells = self._width**2
        self._open = np.zeros(n_cells, dtype=bool)
        self._border = np.zeros(n_cells, dtype=bool)
        self._arrangements = np.zeros((1, n_cells), dtype=np.uint8)

    def _update(self, observation: int, action: np.ndarray) -> None:
        cell = int(action[0]) * self._width + int(action[1])
        if self._open[cell]:
            return
        self._open[cell] = True
        self._border[cell] = False
        safe = self._arrangements[self._arrangements[:, cell] == 0]
        near = np.flatnonzero(self._adjacency[cell])
        new = near[~self._open[near] & ~self._border[near]]
        missing = observation - safe[:, near].sum(axis=1, dtype=int)
        extended = [self._extend(safe[missing == n_mines], new, n_mines) for n_mines in range(new.size + 1)]
        self._border[new] = True
        arrangements = np.concatenate(extended)
        self._arrangements = arrangements[self._completions(arrangements) > 0]

    def act(self) -> np.ndarray:
        """Return the row and column to open, shape (2,)."""
        danger = self._mine_probability()
        danger[self._open] = 2
        closed_neighbours = (self._adjacency & ~self._open).sum(axis=1)
        cost = np.where(danger < 1e-9, -1, np.round(danger, 9) + 1e-12 * closed_neighbours)
        return np.array(divmod(int(cost.argmin()), self._width))

    @staticmethod
    def _extend(arrangements: np.ndarray, cells: np.ndarray, n_mines: int) -> np.ndarray:
        """Return every arrangement with every way to hide ``n_mines`` under ``cells`` added."""
        ways = patterns(cells.size, n_mines)
        extended = np.repeat(arrangements, len(ways), axis=0)
        extended[:, cells] = np.tile(ways, (len(arrangements), 1))
        return extended

    def _completions(self, arrangements: np.ndarray) -> np.ndarray:
        """Return the number of ways to hide the other mines under the cells that are neither open nor in the border."""
        n_other_cells = int((~self._open & ~self._border).sum())
        ways = [comb(n_other_cells, n_mines) for n_mines in range(self._n_mines + 1)] + [0]
        n_other_mines = self._n_mines - arrangements.sum(axis=1, dtype=int)
        return np.array(ways, dtype=float)[np.maximum(n_other_mines, -1)]

    def _mine_probability(self) -> np.ndarray:
        weights = self._completions(self._arrangements)
        weights /= weights.sum()
        probability = weights @ self._arrangements
        elsewhere = ~self._open & ~self._border
        if elsewhere.any():
            probability[elsewhere] = (self._n_mines - probability.sum()) / elsewhere.sum()
        return probability

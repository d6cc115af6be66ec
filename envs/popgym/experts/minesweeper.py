"""Expert of the three MineSweeper tasks."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np

from .base import Expert


@lru_cache
def patterns(n_cells: int, n_mines: int) -> np.ndarray:
    """
    List all ways to hide mines under cells.

    :param n_cells: Number of cells.
    :param n_mines: Number of mines.
    :return: Uint8, 1 for a mine, shape (ways, n_cells).
    """
    ways = np.zeros((comb(n_cells, n_mines), n_cells), dtype=np.uint8)
    for way, mines in zip(ways, combinations(range(n_cells), n_mines), strict=True):
        way[list(mines)] = 1
    return ways


def adjacency(width: int) -> np.ndarray:
    """
    Tell which cells of a square board touch.

    :param width: Width and height of the board in cells.
    :return: Bool, shape (cells, cells).
    """
    rows, columns = np.divmod(np.arange(width**2), width)
    return np.maximum(abs(rows[:, None] - rows), abs(columns[:, None] - columns)) == 1


class Border(NamedTuple):
    """
    Closed cells whose mines depend on each other through the numbers seen.

    :param cells: Bool array (cells of the board,), the cells that belong to it.
    :param arrangements: Uint8 array (arrangements, cells of the board), all ways to hide mines that explain the numbers.
    """

    cells: np.ndarray
    arrangements: np.ndarray

    def joined(self, other: Border) -> Border:
        """
        Join two borders that share no cell.

        :param other: The second one.
        :return: The border of both, with every arrangement of one beside every one of the other.
        """
        pairs = self.arrangements[:, None] + other.arrangements  # (one's, other's, cells)
        return Border(self.cells | other.cells, pairs.reshape(-1, self.cells.size))  # (pairs, cells)

    def without(self, cell: int) -> Border:
        """
        Leave out a cell that is known to be safe.

        :param cell: Its index.
        :return: What is left.
        """
        cells = self.cells.copy()
        cells[cell] = False
        return Border(cells, self.arrangements[self.arrangements[:, cell] == 0])

    def explaining(self, number: int, near: np.ndarray, new: np.ndarray) -> Border:
        """
        Add cells and keep what explains a number.

        :param number: Mines under the cells ``near``.
        :param near: Indices of cells that are closed.
        :param new: Those of them that are in no border yet.
        :return: The border with the new cells.
        """
        cells = self.cells.copy()
        cells[new] = True
        missing = number - self.arrangements[:, near].sum(axis=1, dtype=int)
        extended = [self._extended(missing == n_mines, new, n_mines) for n_mines in range(new.size + 1)]
        return Border(cells, np.concatenate(extended))

    def _extended(self, chosen: np.ndarray, new: np.ndarray, n_mines: int) -> np.ndarray:
        arrangements, ways = self.arrangements[chosen], patterns(new.size, n_mines)
        extended = np.repeat(arrangements, len(ways), axis=0)
        extended[:, new] = np.tile(ways, (len(arrangements), 1))
        return extended


class MineSweeper(Expert):
    """
    Open the cell that least likely hides a mine, by the exact posterior.

    Among safe cells it opens the first one in reading order; among equally likely mines, first the one with the fewest
    closed neighbours, whose number most likely is a zero.

    Closed cells next to open ones form borders that depend on each other through the number of mines alone.

    :param size: Width and height of the board in cells.
    :param n_mines: Number of mines.
    """

    def __init__(self, size: int, n_mines: int) -> None:
        self._size = size
        self._n_mines = n_mines
        self._adjacency = adjacency(size)

    def _start(self, observation: int) -> None:
        self._open = np.zeros(self._size**2, dtype=bool)
        self._borders: list[Border] = []

    def _update(self, observation: int, action: np.ndarray) -> None:
        cell = int(action[0]) * self._size + int(action[1])
        if self._open[cell]:
            return
        self._open[cell] = True
        near = np.flatnonzero(self._adjacency[cell] & ~self._open)
        touched = np.append(near, cell)
        border = Border(np.zeros_like(self._open), np.zeros((1, self._open.size), dtype=np.uint8))
        apart = []
        for other in self._borders:
            if other.cells[touched].any():
                border = border.joined(other.without(cell))
            else:
                apart.append(other)
        self._borders = [*apart, border.explaining(observation, near, near[~border.cells[near]])]

    def act(self) -> np.ndarray:
        """Return the row and column to open, shape (2,)."""
        danger = self._mine_probability()
        danger[self._open] = 2
        closed_neighbours = (self._adjacency & ~self._open).sum(axis=1)
        cost = np.where(danger < 1e-9, -1, np.round(danger, 9) + 1e-12 * closed_neighbours)
        return np.array(divmod(int(cost.argmin()), self._size))

    def _mine_probability(self) -> np.ndarray:
        limit = self._n_mines + 1
        elsewhere = ~np.any([self._open, *(border.cells for border in self._borders)], axis=0)
        n_elsewhere = int(elsewhere.sum())
        ways_elsewhere = np.array([comb(n_elsewhere, n_mines) for n_mines in range(limit)], dtype=float)
        mines = [border.arrangements.sum(axis=1, dtype=int) for border in self._borders]
        ways = [np.bincount(counts, minlength=limit)[:limit].astype(float) for counts in mines]
        probability = np.zeros(self._open.size)
        for index, border in enumerate(self._borders):
            around = ways_elsewhere
            for other in ways[:index] + ways[index + 1 :]:
                around = np.convolve(around, other)[:limit]
            possible = mines[index] < limit
            weights = around[self._n_mines - mines[index][possible]]
            probability += weights @ border.arrangements[possible] / weights.sum()
        if n_elsewhere:
            probability[elsewhere] = (self._n_mines - probability.sum()) / n_elsewhere
        return probability

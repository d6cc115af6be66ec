"""Expert of the three Battleship tasks."""

from __future__ import annotations

import numpy as np

from .base import Expert


def placements(board_size: int, ship_size: int) -> np.ndarray:
    """
    Return all places of a ship.

    :param board_size: width and height of the board in cells
    :param ship_size: length of the ship in cells
    :return: array (placements, cells), 1 where the ship lies
    """
    grids = np.zeros((board_size, board_size - ship_size + 1, 2, board_size, board_size))
    for line in range(board_size):
        for start in range(board_size - ship_size + 1):
            grids[line, start, 0, line, start : start + ship_size] = 1
            grids[line, start, 1, start : start + ship_size, line] = 1
    return grids.reshape(-1, board_size**2)


class Ship:
    """
    Where a ship may lie, as far as the shots tell.

    :param board_size: width and height of the board in cells
    :param ship_size: length of the ship in cells
    """

    def __init__(self, board_size: int, ship_size: int) -> None:
        self._all_cells = placements(board_size, ship_size)
        self.start()

    def start(self) -> None:
        """Forget all shots."""
        self.cells = self._all_cells
        self.hits = np.zeros(len(self.cells), dtype=np.int64)

    def hit(self, cell: int, number: int) -> None:
        """Mark the placements that explain hit number ``number`` with the bit of that number."""
        self.hits |= self.cells[:, cell].astype(np.int64) << number

    def miss(self, cell: int) -> None:
        """Drop the placements that a miss rules out."""
        possible = self.cells[:, cell] == 0
        self.cells, self.hits = self.cells[possible], self.hits[possible]

    def count(self, n_hits: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sets of hits that placements explain, as bit masks, and the number of placements of each."""
        counts = np.bincount(self.hits, minlength=1 << n_hits)
        sets = np.flatnonzero(counts)
        return sets, counts[sets].astype(float)

    def density(self, sets: np.ndarray, weights: np.ndarray, n_hits: int) -> np.ndarray:
        """Return the weight of each cell if a placement that explains ``sets[i]`` has ``weights[i]``."""
        weight_of = np.zeros(1 << n_hits)
        weight_of[sets] = weights
        return weight_of[self.hits] @ self.cells


class Pair:
    """
    Two ships that explain different hits.

    :param first: sets of hits that the first ship explains, and their counts
    :param second: the same of the second ship
    :param n_hits: number of hits so far
    """

    def __init__(self, first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], n_hits: int) -> None:
        self._counts = first[1], second[1]
        self._united = first[0][:, None] | second[0]
        self._disjoint = (first[0][:, None] & second[0]) == 0
        self._everything = (1 << n_hits) - 1
        ways = np.where(self._disjoint, np.outer(*self._counts), 0)
        self.ways = np.bincount(self._united.ravel(), weights=ways.ravel(), minlength=1 << n_hits)

    def complete(self, others: Pair) -> tuple[np.ndarray, np.ndarray]:
        """
        Count the ways in which the other two ships explain exactly the hits that this pair leaves.

        :return: ways for each set of the first ship, and for each of the second
        """
        ways = np.where(self._disjoint, others.ways[self._everything ^ self._united], 0)
        return ways @ self._counts[1], self._counts[0] @ ways


class Battleship(Expert):
    """
    Shoot at the cell that most arrangements of the four ships occupy, the first one among equals.

    Arrangements avoid all misses and explain every hit by exactly one ship. That ships do not overlap elsewhere is not
    asked, which costs no return. A map of what was hit and missed decides alone; there is no chance in it.

    :param board_size: width and height of the board in cells
    """

    def __init__(self, board_size: int) -> None:
        self._board_size = board_size
        self._short, self._middle, self._long = self._ships = [Ship(board_size, ship_size) for ship_size in (2, 3, 4)]

    def _start(self, observation: int) -> None:
        self._shot = np.zeros(self._board_size**2, dtype=bool)
        self._n_hits = 0
        for ship in self._ships:
            ship.start()

    def _update(self, observation: int, action: np.ndarray) -> None:
        cell = int(action[0]) * self._board_size + int(action[1])
        if self._shot[cell]:
            return
        self._shot[cell] = True
        for ship in self._ships:
            if observation:
                ship.hit(cell, self._n_hits)
            else:
                ship.miss(cell)
        self._n_hits += observation

    def act(self) -> np.ndarray:
        """Return the row and column to shoot at, shape (2,)."""
        n_hits = self._n_hits
        short, middle, long = (ship.count(n_hits) for ship in self._ships)
        unequal, equal = Pair(short, long, n_hits), Pair(middle, middle, n_hits)
        short_ways, long_ways = unequal.complete(equal)
        first_ways, second_ways = equal.complete(unequal)
        density = (
            self._short.density(short[0], short_ways, n_hits)
            + self._middle.density(middle[0], first_ways + second_ways, n_hits)
            + self._long.density(long[0], long_ways, n_hits)
        )
        density[self._shot] = -1
        return np.array(divmod(int(density.argmax()), self._board_size))

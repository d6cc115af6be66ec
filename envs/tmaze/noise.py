"""The noise in the observations of T-Mazes: uniform in {-1, 0, 1}, drawn in blocks, the same for single mazes and batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NOISE_BLOCK = 1024
NOISE_VALUES = (-1, 0, 1)


def _split(rng: np.random.Generator) -> np.random.Generator:
    """Split the generator of the noise off the one of goals and corridors."""
    return np.random.default_rng(rng.integers(2**63))


def _draw(rng: np.random.Generator) -> np.ndarray:
    """Draw the next values, int8 of shape (NOISE_BLOCK,)."""
    return rng.integers(-1, 2, size=NOISE_BLOCK, dtype=np.int8)


class Noise:
    """
    The noise of a single maze.

    :param rng: Generator of goals and corridors, from which that of the noise is split off.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = _split(rng)
        self._values = np.empty(0, dtype=np.int8)
        self._cursor = 0

    def next(self) -> np.int8:
        """Return the next value."""
        if self._cursor == len(self._values):
            self._values = _draw(self._rng)
            self._cursor = 0
        self._cursor += 1
        return self._values[self._cursor - 1]


class NoiseBatch:
    """
    The noise of n mazes, each at a place of its own.

    :param rngs: Generators of goals and corridors, one for each maze.
    """

    def __init__(self, rngs: Sequence[np.random.Generator]) -> None:
        self._rngs = [_split(rng) for rng in rngs]
        self._values = np.empty((len(rngs), NOISE_BLOCK), dtype=np.int8)
        self._cursor = np.full(len(rngs), NOISE_BLOCK - 1)  # index of the present value in each row

    def restart(self, row: int, rng: np.random.Generator) -> None:
        """
        Begin anew.

        :param row: Index of the maze.
        :param rng: Its new generator.
        """
        self._rngs[row] = _split(rng)
        self._cursor[row] = self._values.shape[1] - 1

    def present(self, rows: np.ndarray) -> np.ndarray:
        """
        Return the present values.

        :param rows: Indices of b mazes.
        :return: Int8, shape (b,).
        """
        return self._values[rows, self._cursor[rows]]

    def advance(self, rows: np.ndarray) -> None:
        """
        Go on by one value.

        :param rows: Indices of the mazes that do.
        """
        self._cursor[rows] += 1
        self._extend(1)

    def ahead(self, n_values: int) -> np.ndarray:
        """
        Look at values without going on.

        :param n_values: The present one and those that follow it.
        :return: Int8, shape (n, n_values).
        """
        self._extend(n_values)
        rows = np.arange(len(self._cursor))[:, None]  # (n, 1)
        return self._values[rows, self._cursor[:, None] + np.arange(n_values)]

    def skip(self, n_values: int) -> None:
        """
        Go on by many values in every maze.

        :param n_values: How many.
        """
        for start in range(0, n_values, NOISE_BLOCK):
            n_block = min(NOISE_BLOCK, n_values - start)
            self._extend(n_block + 1)
            self._cursor += n_block

    def _extend(self, n_values: int) -> None:
        """Hold the next ``n_values`` of every maze, from its cursor on, at the right end of the array."""
        missing = NOISE_BLOCK + n_values - 1 - self._values.shape[1]
        if missing > 0:
            self._values = np.pad(self._values, ((0, 0), (missing, 0)))
            self._cursor += missing
        first_lacking = self._values.shape[1] - n_values + 1
        for i in (self._cursor >= first_lacking).nonzero()[0].tolist():
            n_blocks = 1 + (int(self._cursor[i]) - first_lacking) // NOISE_BLOCK
            n_new = n_blocks * NOISE_BLOCK
            self._values[i, :-n_new] = self._values[i, n_new:]
            self._values[i, -n_new:] = np.concatenate([_draw(self._rngs[i]) for _ in range(n_blocks)])
            self._cursor[i] -= n_new

"""Flat vectors of actions and observations: one-hot where a space is discrete."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces


class FlatPart:
    """
    The columns of one part of a flat vector.

    :param space: Of the part: ``Discrete``, ``MultiDiscrete``, ``MultiBinary`` or ``Box``.
    :param first: First column.
    """

    def __init__(self, space: spaces.Space, first: int) -> None:
        self.end = first + spaces.flatdim(space)
        self.columns = slice(first, self.end)
        self.offsets: np.ndarray | None = None
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            sizes = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
            self.offsets = first + np.cumsum(sizes) - sizes - np.ravel(space.start)

    def write(self, out: np.ndarray, values: np.ndarray) -> None:
        """
        Write values into flat vectors that hold zeros.

        :param out: Flat vectors, shape (B, n_columns).
        :param values: Elements of the space, shape (B, ...).
        """
        values = values.reshape(len(out), -1)  # (B, n_values)
        if self.offsets is None:
            out[:, self.columns] = values
        else:
            out[np.arange(len(out))[:, None], self.offsets + values] = 1  # indices (B, 1) and (B, n_values)

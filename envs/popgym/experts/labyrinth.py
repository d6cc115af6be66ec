"""Expert of the six Labyrinth tasks, which keeps a hand on the wall."""

from __future__ import annotations

import numpy as np

from .base import Expert

WALL, START, GOAL = 1, 2, 3
LEFT, RIGHT, UP, DOWN = range(4)
MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))
CLOCKWISE = (UP, RIGHT, DOWN, LEFT)
VIEW = 3


class Labyrinth(Expert):
    """
    Go to the goal where it is a step away; else keep the right hand on the wall.

    Popgym's mazes have no loops, so that this visits every cell, and no dead end twice. It takes as long as walking to the
    nearest cell that was not visited, and no map is needed: what is on view and the direction of the last move decide.

    The environment centres the view of 3 x 3 cells on the agent, but for the topmost row and the leftmost column, where it
    lacks what lies outside and is filled up with walls at its other end. The start, an opening in the outer wall, is the only
    place there to be revisited: the first view tells where the agent is on it, and dead reckoning when it is back.
    """

    def _start(self, observation: np.ndarray) -> None:
        view = observation[:-1].reshape(VIEW, VIEW)  # (row, column)
        self._centre_at_start = tuple(np.argwhere(view == START)[0].tolist())
        self._position = (0, 0)
        self._heading = UP
        self._look(observation)

    def _update(self, observation: np.ndarray, action: int) -> None:
        if self._ahead(action) != WALL:
            row, column = MOVES[action]
            self._position = self._position[0] + row, self._position[1] + column
            self._heading = int(action)
        self._look(observation)

    def act(self) -> int:
        """Return 0 to go left, 1 right, 2 up or 3 down."""
        turn = CLOCKWISE.index(self._heading)
        moves = [CLOCKWISE[(turn + quarter) % 4] for quarter in (1, 0, -1, 2)]  # right, straight on, left, back
        return min(moves, key=lambda move: (self._ahead(move) != GOAL, self._ahead(move) == WALL))

    def _look(self, observation: np.ndarray) -> None:
        self._view = observation[:-1].reshape(VIEW, VIEW)
        self._centre = self._centre_at_start if self._position == (0, 0) else (1, 1)

    def _ahead(self, move: int) -> int:
        """Return what lies in the direction of a move, a wall for what is out of view."""
        row, column = self._centre[0] + MOVES[move][0], self._centre[1] + MOVES[move][1]
        return int(self._view[row, column]) if min(row, column) >= 0 and max(row, column) < VIEW else WALL

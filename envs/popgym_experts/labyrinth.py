"""Experts of the six Labyrinth tasks, which map the maze by dead reckoning."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque

import numpy as np

from .base import Expert

Position = tuple[int, int]

WALL, START, GOAL = 1, 2, 3
MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))
VIEW = 3


class LabyrinthExpert(Expert):
    """
    Walk to the nearest place that is worth it, through cells that were seen to be free.

    Positions are (row, column) relative to the start, which is an opening in the outer wall. The environment centres the
    view of 3 x 3 cells on the agent, but for the topmost row and the leftmost column, where it lacks what lies outside and
    is filled up with walls at its other end. The start is the only place of that kind, so the first view tells whether the
    views there are such.
    """

    def _start(self, observation: np.ndarray) -> None:
        self._cells: dict[Position, int] = {}
        self._position = (0, 0)
        self._visited = {self._position}
        view = observation[:-1].reshape(VIEW, VIEW)
        self._view_at_start = tuple(int(index) for index in np.argwhere(view == START)[0])
        self._look(observation)

    def _update(self, observation: np.ndarray, action: int) -> None:
        target = self._neighbour(self._position, action)
        if self._is_free(target):
            self._position = target
            self._visited.add(target)
        self._look(observation)

    def act(self) -> int:
        """Return 0 to go left, 1 right, 2 up or 3 down."""
        came_from: dict[Position, tuple[Position, int] | None] = {self._position: None}
        queue = deque([self._position])
        while queue:
            position = queue.popleft()
            if self._is_worth_it(position):
                return self._first_move(position, came_from)
            for move in range(len(MOVES)):
                target = self._neighbour(position, move)
                if target not in came_from and self._is_free(target):
                    came_from[target] = position, move
                    queue.append(target)
        return 0

    @abstractmethod
    def _is_worth_it(self, position: Position) -> bool:
        """Tell whether to walk to a free cell."""

    def _look(self, observation: np.ndarray) -> None:
        row, column = self._position
        up, left = self._view_at_start if self._position == (0, 0) else (1, 1)
        for index, cell in enumerate(observation[:-1].tolist()):
            i, j = divmod(index, VIEW)
            if i <= up + 1 and j <= left + 1:
                self._cells[row + i - up, column + j - left] = cell

    def _is_free(self, position: Position) -> bool:
        return self._cells.get(position, WALL) != WALL

    @staticmethod
    def _neighbour(position: Position, move: int) -> Position:
        return position[0] + MOVES[move][0], position[1] + MOVES[move][1]

    @staticmethod
    def _first_move(position: Position, came_from: dict[Position, tuple[Position, int] | None]) -> int:
        first = 0
        while (step := came_from[position]) is not None:
            position, first = step
        return first


class LabyrinthExplore(LabyrinthExpert):
    """Visit the nearest cell that was not visited."""

    def _is_worth_it(self, position: Position) -> bool:
        return position not in self._visited


class LabyrinthEscape(LabyrinthExpert):
    """Explore until the goal has been seen."""

    def _is_worth_it(self, position: Position) -> bool:
        return position not in self._visited

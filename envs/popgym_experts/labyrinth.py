"""Experts of the six Labyrinth tasks, which map the maze by dead reckoning."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .base import Expert

Position = tuple[int, int]

WALL, START, GOAL = 1, 2, 3
MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))
VIEW = 3


class Place(NamedTuple):
    """A free cell that was seen but not visited, the first move on the way there, and the number of moves."""

    position: Position
    first_move: int
    distance: int


def neighbour(position: Position, move: int) -> Position:
    """Return the position that a move leads to, walls apart."""
    return position[0] + MOVES[move][0], position[1] + MOVES[move][1]


class LabyrinthExpert(Expert):
    """
    Walk to cells that were seen to be free but not visited.

    Positions are (row, column) relative to the start, which is an opening in the outer wall. The environment centres the
    view of 3 x 3 cells on the agent, but for the topmost row and the leftmost column, where it lacks what lies outside and
    is filled up with walls at its other end. The start is the only place there to be revisited, so that the first view
    tells all that is needed.
    """

    def _start(self, observation: np.ndarray) -> None:
        self._cells: dict[Position, int] = {}
        self._position = (0, 0)
        self._visited = {self._position}
        view = observation[:-1].reshape(VIEW, VIEW)
        row, column = np.argwhere(view == START)[0].tolist()
        self._centre_at_start = row, column
        self._look(observation)

    def _update(self, observation: np.ndarray, action: int) -> None:
        target = neighbour(self._position, action)
        if self._is_free(target):
            self._position = target
            self._visited.add(target)
        self._look(observation)

    def act(self) -> int:
        """Return 0 to go left, 1 right, 2 up or 3 down; 0 if everything was visited."""
        place = self._choose(self._unvisited())
        return place.first_move if place else 0

    @abstractmethod
    def _choose(self, places: Iterator[Place]) -> Place | None:
        """Choose where to go, if there is anywhere, from the nearest place to the farthest."""

    def _look(self, observation: np.ndarray) -> None:
        row, column = self._position
        up, left = self._centre_at_start if self._position == (0, 0) else (1, 1)
        for index, cell in enumerate(observation[:-1].tolist()):
            i, j = divmod(index, VIEW)
            if i <= up + 1 and j <= left + 1:
                self._cells[row + i - up, column + j - left] = cell

    def _is_free(self, position: Position) -> bool:
        return self._cells.get(position, WALL) != WALL

    def _unvisited(self) -> Iterator[Place]:
        reached = {self._position}
        queue = deque([Place(self._position, 0, 0)])
        while queue:
            place = queue.popleft()
            for move in range(len(MOVES)):
                target = neighbour(place.position, move)
                if target in reached or not self._is_free(target):
                    continue
                reached.add(target)
                following = Place(target, place.first_move if place.distance else move, place.distance + 1)
                if target in self._visited:
                    queue.append(following)
                else:
                    yield following


class LabyrinthExplore(LabyrinthExpert):
    """Visit the nearest cell that was not visited."""

    def _choose(self, places: Iterator[Place]) -> Place | None:
        return next(places, None)


class LabyrinthEscape(LabyrinthExpert):
    """
    Go to the goal once it has been seen; until then, to where the way and what is left to the opposite wall are shortest.

    The goal always lies in the wall opposite the start.
    """

    def _start(self, observation: np.ndarray) -> None:
        super()._start(observation)
        self._inward = next((MOVES[move] for move in range(len(MOVES)) if self._is_free(neighbour((0, 0), move))), MOVES[0])

    def _choose(self, places: Iterator[Place]) -> Place | None:
        return min(places, key=self._cost, default=None)

    def _cost(self, place: Place) -> float:
        if self._cells[place.position] == GOAL:
            return -np.inf
        depth = place.position[0] * self._inward[0] + place.position[1] * self._inward[1]
        return place.distance - depth

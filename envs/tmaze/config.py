"""What the single T-Maze and the batch share: arguments, spaces, and draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from numbers import Integral
from typing import Any

import numpy as np
from gymnasium import spaces

from ..arguments import check_integer

REWARDS = ("sparse", "penalty", "eased")


class Action(IntEnum):
    """The four moves."""

    RIGHT = 0
    UP = 1
    LEFT = 2
    DOWN = 3


NOISE = 3  # its index in observations
DX = (1, 0, -1, 0)
DY = (0, 1, 0, -1)


def check_corridor(cells: Any, default: int, longest: int, length: int) -> tuple[int, int]:
    """
    Check the argument ``corridor_length`` of a maze.

    :param cells: Number of cells, an inclusive range of them, or None.
    :param default: What None stands for.
    :param longest: The longest corridor that can be finished.
    :param length: The step limit, for the error.
    :return: The shortest and the longest corridor.
    :raises ValueError: For something else, or a corridor that cannot be finished.
    """
    if cells is None:
        return default, default
    pair = cells if isinstance(cells, tuple | list) else (cells, cells)
    if len(pair) != 2 or not all(isinstance(bound, Integral) for bound in pair):
        raise ValueError(f"`corridor_length` must be an integer or a pair (low, high). Received {cells!r}.")
    low, high = (check_integer("corridor_length", bound, minimum=1) for bound in pair)
    if low > high:
        raise ValueError(f"`corridor_length` must be a pair (low, high) with low <= high. Received {cells!r}.")
    if high > longest:
        raise ValueError(
            f"`corridor_length` must be at most {longest} to be finished within {length} steps. Received {cells!r}."
        )
    return low, high


@dataclass(frozen=True)
class TMazeConfig:
    """
    Validated arguments of a T-Maze; :class:`TMazeEnv` explains them.

    Integers become Python ints; ``corridor_range`` is the pair (shortest, longest) that ``corridor_length`` stands for.

    :param length: Step limit T of each corridor.
    :param corridor_length: Cells C between the start and the junction, or an inclusive range of them (None: the longest
        corridor that leaves one spare step).
    :param hint_steps: Number of observations that show the hint (passive maze).
    :param reward: "sparse", "penalty" or "eased".
    :param active: Whether the hint is shown at an oracle cell left of the start instead of at the first observations.
    :param n_corridors: Corridors in a row, each with a goal of its own.
    :raises ValueError: For an argument outside its range, or a corridor that cannot be finished within ``length`` steps.
    """

    length: int = 30
    corridor_length: int | tuple[int, int] | None = None
    hint_steps: int = 1
    reward: str = "sparse"
    active: bool = False
    n_corridors: int = 1
    corridor_range: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.active, bool | np.bool_):
            raise ValueError(f"`active` must be a bool. Received {self.active!r}.")
        if self.reward not in REWARDS:
            raise ValueError(f"`reward` must be one of {', '.join(map(repr, REWARDS))}. Received {self.reward!r}.")
        length = check_integer("length", self.length, minimum=3 + self.detour)
        hint_steps = check_integer("hint_steps", self.hint_steps, minimum=1)
        if self.active and hint_steps != 1:
            raise ValueError(
                f"`hint_steps` must be 1 in the active maze, which shows the hint by place. Received {hint_steps}."
            )
        object.__setattr__(self, "length", length)
        object.__setattr__(self, "hint_steps", hint_steps)
        object.__setattr__(self, "n_corridors", check_integer("n_corridors", self.n_corridors, minimum=1))
        default = length - 2 - self.detour
        object.__setattr__(self, "corridor_range", check_corridor(self.corridor_length, default, default + 1, length))

    @property
    def detour(self) -> int:
        """Steps that an expert spends on the way to the oracle and back."""
        return 2 if self.active else 0

    @property
    def leftmost(self) -> int:
        """Position of the leftmost cell, which is the oracle cell of an active maze."""
        return -1 if self.active else 0

    @property
    def late_reward(self) -> float:
        """Reward of a step behind schedule ("penalty")."""
        return -1 / (self.length - 1)

    @property
    def idle_reward(self) -> float:
        """Reward of a step that brings the agent no further ("eased")."""
        return -1 / self.length

    def draw_corridor(self, rng: np.random.Generator) -> tuple[int, int]:
        """
        Draw what tells one corridor from another.

        :param rng: Source of the draws.
        :return: The goal (+1 up, -1 down) and the number of corridor cells.
        """
        goal = 1 if rng.integers(2) else -1
        low, high = self.corridor_range
        return goal, low if low == high else int(rng.integers(low, high, endpoint=True))


def make_spaces() -> tuple[spaces.Box, spaces.Discrete]:
    """Build new observation and action spaces, whose samplers are shared with no other environment."""
    low = np.array([-1, -1, 0, -1], dtype=np.float32)
    return spaces.Box(low=low, high=np.ones(4, dtype=np.float32)), spaces.Discrete(len(Action))

"""
Scripted experts for POPGym's 48 tasks (https://arxiv.org/abs/2303.01859), which see what an agent sees.

They are made to be cloned: there is no chance in them, among equally good actions they take the first one, and where no
action counts, 0.
"""

from collections.abc import Callable
from functools import partial

from ..env import LEVELS
from .bandit import MultiarmedBandit
from .base import Expert
from .battleship import Battleship
from .cards import Concentration, CountRecall, HigherLower
from .cartpole import NoisyPositionOnlyCartPole, PositionOnlyCartPole, VelocityOnlyCartPole
from .labyrinth import Labyrinth
from .minesweeper import MineSweeper
from .pendulum import NoisyPositionOnlyPendulum, PositionOnlyPendulum
from .repeat import Autoencode, RepeatFirst, RepeatPrevious

__all__ = ["TASKS", "Expert", "make_expert"]

FAMILIES: dict[str, tuple[Callable[[], Expert], ...]] = {
    "Autoencode": (Autoencode,) * 3,
    "Battleship": tuple(partial(Battleship, board_size) for board_size in (8, 10, 12)),
    "Concentration": tuple(partial(Concentration, n_values) for n_values in (2, 2, 13)),
    "CountRecall": tuple(partial(CountRecall, n_cards) for n_cards in (2, 4, 13)),
    "HigherLower": tuple(partial(HigherLower, n_decks) for n_decks in (1, 2, 3)),
    "LabyrinthEscape": (Labyrinth,) * 3,
    "LabyrinthExplore": (Labyrinth,) * 3,
    "MineSweeper": tuple(partial(MineSweeper, width, n_mines) for width, n_mines in ((4, 2), (6, 6), (8, 10))),
    "MultiarmedBandit": tuple(
        partial(MultiarmedBandit, n_arms, length) for n_arms, length in ((10, 200), (20, 400), (30, 600))
    ),
    "NoisyPositionOnlyCartPole": tuple(partial(NoisyPositionOnlyCartPole, noise) for noise in (0.1, 0.2, 0.3)),
    "NoisyPositionOnlyPendulum": tuple(partial(NoisyPositionOnlyPendulum, noise) for noise in (0.1, 0.2, 0.3)),
    "PositionOnlyCartPole": (PositionOnlyCartPole,) * 3,
    "PositionOnlyPendulum": (PositionOnlyPendulum,) * 3,
    "RepeatFirst": (RepeatFirst,) * 3,
    "RepeatPrevious": tuple(partial(RepeatPrevious, k) for k in (4, 32, 64)),
    "VelocityOnlyCartPole": (VelocityOnlyCartPole,) * 3,
}

EXPERTS = {family + level: make for family, makes in FAMILIES.items() for level, make in zip(LEVELS, makes, strict=True)}
TASKS = tuple(EXPERTS)


def make_expert(task: str) -> Expert:
    """
    Build the expert of a task.

    :param task: name of POPGym's class, as "RepeatFirstEasy"
    :return: an expert that waits for an episode's first observation
    :raises ValueError: if POPGym has no such task
    """
    if task not in EXPERTS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}. Received {task!r}.")
    return EXPERTS[task]()

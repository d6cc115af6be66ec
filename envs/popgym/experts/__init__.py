"""
Scripted experts for POPGym's 48 tasks (https://arxiv.org/abs/2303.01859), which see what an agent sees.

They are made to be cloned: there is no chance in them, among equally good actions they take the first one, and where no
action counts, 0.
"""

from ..tasks import find_task
from .bandit import MultiarmedBandit
from .base import Expert
from .battleship import Battleship
from .cards import Concentration, CountRecall, HigherLower
from .cartpole import NoisyPositionOnlyCartPole, PositionOnlyCartPole, VelocityOnlyCartPole
from .labyrinth import Labyrinth
from .minesweeper import MineSweeper
from .pendulum import NoisyPositionOnlyPendulum, PositionOnlyPendulum
from .repeat import Autoencode, RepeatFirst, RepeatPrevious

__all__ = ["Expert", "make_expert"]

EXPERTS: dict[str, tuple[type[Expert], tuple[str, ...]]] = {
    "Autoencode": (Autoencode, ()),
    "Battleship": (Battleship, ("size",)),
    "Concentration": (Concentration, ("feature",)),
    "CountRecall": (CountRecall, ("feature",)),
    "HigherLower": (HigherLower, ("n_decks",)),
    "LabyrinthEscape": (Labyrinth, ()),
    "LabyrinthExplore": (Labyrinth, ()),
    "MineSweeper": (MineSweeper, ("size", "n_mines")),
    "MultiarmedBandit": (MultiarmedBandit, ("n_arms", "limit")),
    "NoisyPositionOnlyCartPole": (NoisyPositionOnlyCartPole, ("sigma",)),
    "NoisyPositionOnlyPendulum": (NoisyPositionOnlyPendulum, ("sigma",)),
    "PositionOnlyCartPole": (PositionOnlyCartPole, ()),
    "PositionOnlyPendulum": (PositionOnlyPendulum, ()),
    "RepeatFirst": (RepeatFirst, ()),
    "RepeatPrevious": (RepeatPrevious, ("k",)),
    "VelocityOnlyCartPole": (VelocityOnlyCartPole, ()),
}
"""The expert of each family, and which of its tasks' numbers it must know."""


def make_expert(task: str) -> Expert:
    """
    Build the expert of a task.

    :param task: Name of POPGym's class, such as "RepeatFirstEasy".
    :return: An expert that waits for an episode's first observation.
    :raises ValueError: If POPGym has no such task.
    """
    family, constants = find_task(task)
    expert, needed = EXPERTS[family]
    return expert(**{name: constants[name] for name in needed})

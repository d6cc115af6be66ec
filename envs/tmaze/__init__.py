"""The T-Maze: one corridor or several in a row, with one cue each or several for all, or runes; single and native batches."""

from .config import TMazeConfig
from .cues import TMazeCuesConfig, TMazeCuesEnv
from .cues_vec import TMazeCuesVecEnv
from .env import TMazeEnv
from .runes import TMazeRunesConfig, TMazeRunesEnv
from .runes_vec import TMazeRunesVecEnv
from .vec import TMazeVecEnv

__all__ = [
    "TMazeConfig",
    "TMazeCuesConfig",
    "TMazeCuesEnv",
    "TMazeCuesVecEnv",
    "TMazeEnv",
    "TMazeRunesConfig",
    "TMazeRunesEnv",
    "TMazeRunesVecEnv",
    "TMazeVecEnv",
]

"""The T-Maze: one corridor or several in a row, with one cue each or several for all, single and as native batches."""

from .config import TMazeConfig
from .cues import TMazeCuesConfig, TMazeCuesEnv
from .cues_vec import TMazeCuesVecEnv
from .env import TMazeEnv
from .vec import TMazeVecEnv

__all__ = ["TMazeConfig", "TMazeCuesConfig", "TMazeCuesEnv", "TMazeCuesVecEnv", "TMazeEnv", "TMazeVecEnv"]

"""The T-Maze: one corridor or several in a row, as a single environment and as a native batch."""

from .config import TMazeConfig
from .env import TMazeEnv
from .vec import TMazeVecEnv

__all__ = ["TMazeConfig", "TMazeEnv", "TMazeVecEnv"]

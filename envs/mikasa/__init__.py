"""MIKASA-Robo's 32 tasks, as single environments and as a batch, and their scripted experts."""

from .env import MikasaEnv
from .tasks import TASKS
from .vec import MikasaVecEnv

__all__ = ["TASKS", "MikasaEnv", "MikasaVecEnv"]

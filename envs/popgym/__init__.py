"""POPGym's 48 tasks, as single environments and as native batches, and their scripted experts."""

from .env import POPGymEnv
from .tasks import TASKS
from .vec import POPGymVecEnv

__all__ = ["TASKS", "POPGymEnv", "POPGymVecEnv"]

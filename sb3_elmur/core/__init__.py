"""
The ELMUR network in plain PyTorch, usable without Stable-Baselines3.

Read :mod:`~sb3_elmur.core.elmur` first: it is the stack, of the layers in :mod:`~sb3_elmur.core.layer`.
"""

from sb3_elmur.core.base import MemoryCore
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.memory import Memory
from sb3_elmur.core.recurrent import RecurrentCore

__all__ = ["Elmur", "ElmurConfig", "Memory", "MemoryCore", "RecurrentCore"]

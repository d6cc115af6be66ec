"""Behaviour cloning: supervised training of a policy on recorded episodes. ``sb3-elmur bc`` runs it."""

from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.shrinking import shrink_memory
from sb3_elmur.bc.trainer import BC

__all__ = ["BC", "BCConfig", "shrink_memory"]

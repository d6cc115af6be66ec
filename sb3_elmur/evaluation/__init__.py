"""Evaluation of saved policies, over very long episodes too. ``python -m sb3_elmur.evaluation`` runs it."""

from sb3_elmur.evaluation.corridors import Corridors, run_episodes

__all__ = ["Corridors", "run_episodes"]

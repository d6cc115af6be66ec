"""Evaluation of saved policies, over very long episodes too. ``python -m sb3_elmur.evaluation`` runs it."""

from sb3_elmur.evaluation.corridors import Corridors
from sb3_elmur.evaluation.crossing import cross_episodes
from sb3_elmur.evaluation.episodes import play_episodes, run_episodes, wilson_interval

__all__ = ["Corridors", "cross_episodes", "play_episodes", "run_episodes", "wilson_interval"]

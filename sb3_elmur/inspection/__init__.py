"""A look into the memory of a saved model: episodes, probes, events, figures, and a page of them."""

from sb3_elmur.inspection.episodes import Inspection, inspect_episodes, play

__all__ = ["Inspection", "inspect_episodes", "play"]

"""Recorded episodes on disk: how they are laid out, read, checked and normalised."""

from sb3_elmur.datasets.episodes import Episode, Episodes, NpzEpisodes, open_episodes
from sb3_elmur.datasets.fields import DataError

__all__ = ["DataError", "Episode", "Episodes", "NpzEpisodes", "open_episodes"]

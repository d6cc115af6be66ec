"""Recording of experts into data sets for behaviour cloning. ``python -m sb3_elmur.recording`` runs it."""

from sb3_elmur.recording.record import record

__all__ = ["record"]

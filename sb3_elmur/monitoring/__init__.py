"""What is measured in a memory while it is trained, and the signs that it fails."""

from sb3_elmur.monitoring.monitor import MemoryMonitor

__all__ = ["MemoryMonitor"]

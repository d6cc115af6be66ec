"""Policies as ONNX files, which run without PyTorch: observation, state and episode start in; action, value and state out."""

from sb3_elmur.export.file import export_policy

__all__ = ["export_policy"]

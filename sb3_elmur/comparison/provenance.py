"""Where a result comes from: date, seed, machine and versions."""

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch as th

PACKAGES = ("sb3-elmur", "torch", "stable-baselines3", "sb3-contrib", "skrl", "gymnasium", "numpy")


def cpu_model() -> str:
    """The processor's name, as Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def versions() -> dict[str, str]:
    """The versions of Python and of the :data:`PACKAGES` that are installed."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def provenance(seed: int, device: str = "cpu") -> dict[str, Any]:
    """
    Describe a run.

    :param seed: Of everything random in it.
    :param device: PyTorch's name of where its networks are.
    :return: Date, seed, machine and versions.
    """
    machine: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores available": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": th.get_num_threads(),
        "device": device,
        "system": platform.platform(),
    }
    if th.device(device).type == "cuda":
        machine["gpu"] = th.cuda.get_device_name(device)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "machine": machine,
        "versions": versions(),
    }

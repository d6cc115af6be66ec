"""What the benchmark scripts share: provenance, atomic JSON files, and Markdown tables."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch as th

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("sb3-elmur", "torch", "stable-baselines3", "sb3-contrib", "skrl", "gymnasium", "numpy")


def cpu_model() -> str:
    """Return the processor's name, as Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def versions() -> dict[str, str]:
    """Return the versions of Python and of the :data:`PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def provenance(seed: int, device: str = "cpu") -> dict[str, Any]:
    """Describe the run: date, seed, machine and versions.

    :param seed: seed of the run
    :param device: torch device of the run
    """
    machine: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores available": len(os.sched_getaffinity(0)),
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


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """
    Write a file under a temporary name and move it into place, so that no reader sees half of it.

    :param path: Where it goes.
    :param write: Writes to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write(temporary)
    os.replace(temporary, path)


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report with :func:`write_file`."""
    write_file(path, lambda temporary: temporary.write_text(json.dumps(report, indent=2) + "\n"))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; integers get thousands separators."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)

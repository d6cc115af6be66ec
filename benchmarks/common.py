"""What the benchmark scripts share: where results go, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.comparison.provenance import provenance
from sb3_elmur.comparison.recipe import RECIPE
from sb3_elmur.comparison.tables import markdown_table

__all__ = ["RECIPE", "RESULTS", "markdown_table", "mean_and_worst", "provenance", "write_file", "write_json"]

RESULTS = Path(__file__).parent / "results"


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """
    Write a file, of which no reader sees half, into a folder that is made if it is not there.

    :param path: Where it goes.
    :param write: Writes to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        write(temporary)


def mean_and_worst(values: list[float]) -> str:
    """The mean of all seeds, and the smallest of several; nothing without values."""
    worst = f" ({min(values):.2f})" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{worst}" if values else ""


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report with :func:`write_file`."""
    write_file(path, lambda temporary: temporary.write_text(json.dumps(report, indent=2) + "\n"))

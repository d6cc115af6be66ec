"""What the benchmark scripts share: where results go, and how they are written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.comparison.provenance import provenance
from sb3_elmur.comparison.recipe import RECIPE
from sb3_elmur.comparison.tables import markdown_table
from sb3_elmur.settings import schedule
from sb3_elmur.zoo.checks import SCHEDULES

__all__ = [
    "RECIPE",
    "RESULTS",
    "launch_all",
    "markdown_table",
    "mean_and_worst",
    "model_arguments",
    "provenance",
    "write_file",
    "write_json",
]

RESULTS = Path(__file__).parent / "results"
OF_THE_RUN = ("callback", "env_kwargs", "n_envs", "n_timesteps", "normalize", "policy")


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """
    Write a file, of which no reader sees half, into a folder that is made if it is not there.

    :param path: Where it goes.
    :param write: Writes to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        write(temporary)


def launch_all(commands: Mapping[Path, Sequence[str]], workers: int) -> None:
    """
    Run scripts, each in a process of one thread, whose output goes to a log.

    :param commands: Arguments of Python by the result that is written; what is there already is not run. In this order.
    :param workers: Processes at a time.
    """
    logs = Path(tempfile.mkdtemp(prefix="sb3_elmur_"))

    def launch(result: Path, arguments: Sequence[str]) -> None:
        if result.exists():
            return
        print(f"{result.stem}: begins", flush=True)
        log = logs / f"{result.stem}.log"
        with open(log, "w") as output:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run([sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT, env=environment)
        print(f"{result.stem}: " + (f"failed, see {log}" if done.returncode else "done"), flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(launch, commands, commands.values()))  # raises what a thread has raised


def model_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    What of an entry of ``ppo_elmur.yml`` goes to the class, beside policy and environment, with schedules as functions.

    :param settings: The entry, which may be changed.
    """
    arguments = {name: value for name, value in settings.items() if name not in OF_THE_RUN}
    return arguments | {name: schedule(arguments[name]) for name in SCHEDULES if name in arguments}


def mean_and_worst(values: list[float]) -> str:
    """The mean of all seeds, and the smallest of several; nothing without values."""
    worst = f" ({min(values):.2f})" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{worst}" if values else ""


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report with :func:`write_file`."""
    write_file(path, lambda temporary: temporary.write_text(json.dumps(report, indent=2) + "\n"))

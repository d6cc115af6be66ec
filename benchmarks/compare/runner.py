"""Every cell in a process of its own, several at a time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compare.cells import Cell
from compare.claims import holder

N_LAST_LINES = 10


def run_cells(cells: Sequence[Cell], command: Sequence[str], workers: int, logs: Path) -> list[Cell]:
    """
    Compute the cells that have no result and that no other process computes.

    :param cells: All of them, in order.
    :param command: Computes the cell that :func:`selection` appends to it.
    :param workers: Processes at a time.
    :param logs: Folder for what failing processes print.
    :return: Cells that failed.
    """
    todo = [cell for cell in cells if cell.read() is None]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} of them finished.", flush=True)
    with ThreadPoolExecutor(workers) as pool:
        try:
            outcomes = list(pool.map(lambda cell: _launch(cell, command, logs), todo))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [cell for cell, succeeded in zip(todo, outcomes, strict=True) if not succeeded]


def selection(cell: Cell) -> list[str]:
    """Options that select one cell; agents that do not learn have no other seed."""
    seeds = [] if cell.algorithm.settings_file is None else ["--seeds", str(cell.seed)]
    return ["--only-envs", cell.env.env_id, "--only-agents", cell.agent.name, *seeds]


def _launch(cell: Cell, command: Sequence[str], logs: Path) -> bool:
    """Compute a cell in a process of its own, and say whether that went well."""
    if cell.path.exists():
        return True
    if other := holder(cell.lock):
        print(f"{cell.name}: left to {other} ({cell.lock})", flush=True)
        return True
    log = logs / f"{cell.name}.{platform.node()}.{os.getpid()}.log"  # other runners compete for the same cells
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as output:
        code = subprocess.run(
            [*command, *selection(cell)], stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}
        ).returncode
    text = log.read_text()
    if code:
        last = "\n".join(f"    {line}" for line in text.splitlines()[-N_LAST_LINES:])
        print(f"{cell.name}: failed with exit status {code}. The end of {log}:\n{last}", file=sys.stderr, flush=True)
        return False
    log.unlink()
    print(f"{cell.name}: {text.strip().splitlines()[-1]}", flush=True)
    return True

"""
A matrix of 12 cells on two simulated nodes of a Dask cluster, one of which is killed in the middle, beside a local run.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/compare_on_a_cluster.py

A node is a worker in a folder of its own, which shares nothing with the other. After a few results all processes of a node are
killed by ``kill -9``. Counted are the results that are there in the end, and those that equal a local run's in everything but
times and machine. Writes ``benchmarks/results/compare_on_a_cluster.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from common import RESULTS, provenance, write_json

ENV, AT_LEAST = "TMazePassive10-v0", 3  # results before the kill
POLICY = {"d_model": 16, "n_heads": 2, "segment_length": 5, "memory_size": 2}
SETTINGS = {"n_timesteps": 1024, "n_envs": 4, "n_steps": 64, "batch_size": 64, "n_epochs": 1, "policy_kwargs": POLICY}
MATRIX = {
    "kind": "online",
    "envs": [ENV],
    "agents": {name: {"policy_kwargs": {"core": name}} for name in ("elmur", "gru", "lstm")},
    "seeds": [0, 1, 2, 3],
    "n_eval_episodes": 8,
    "settings": SETTINGS,
    "score": {"measure": "success"},
}
PASSING = ("training CPU seconds", "evaluation CPU seconds", "date", "machine")


def start(words: Sequence[str], folder: Path) -> subprocess.Popen:
    """Start a Python module in a folder, with processes of its own session."""
    folder.mkdir(exist_ok=True)
    with (folder / "output").open("w") as file:
        command = [sys.executable, "-m", *words]
        return subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, start_new_session=True)


def kill(process: subprocess.Popen) -> None:
    """Kill a process with all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def compare(matrix: Path, results: Path, *options: str) -> subprocess.Popen:
    """Start ``sb3-elmur compare``."""
    code = "import sys; from sb3_elmur.comparison.command import main; main(sys.argv[1:])"
    return subprocess.Popen([sys.executable, "-c", code, str(matrix), "--results", str(results), *options])


def read_results(folder: Path) -> dict[str, Any]:
    """What is in the results, without times and machines."""
    contents = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("matrix/*.json"))}
    return {name: {key: content[key] for key in content if key not in PASSING} for name, content in contents.items()}


def main() -> None:
    """Run the matrix on the cluster and here, and compare."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        matrix = folder / "matrix.yml"
        matrix.write_text(yaml.safe_dump(MATRIX))
        begin = time.monotonic()
        port = address.rpartition(":")[2]
        cluster = [start(["distributed.cli.dask_scheduler", "--port", port, "--no-dashboard"], folder / "head")]
        worker = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "60"]
        cluster += [start(worker, folder / f"node_{number}") for number in range(2)]
        try:
            process = compare(matrix, folder / "cluster", "--cluster", address)
            while len(read_results(folder / "cluster")) < AT_LEAST:
                if process.poll() is not None:
                    raise RuntimeError("It ended too early.")
                time.sleep(0.1)
            before = len(read_results(folder / "cluster"))
            kill(cluster.pop())
            status, seconds = process.wait(), time.monotonic() - begin
        finally:
            for node in cluster:
                kill(node)
        begin = time.monotonic()
        here = compare(matrix, folder / "here", "--workers", "1").wait()
        there, local = read_results(folder / "cluster"), read_results(folder / "here")
    summary = {
        "cells": len(MATRIX["agents"]) * len(MATRIX["seeds"]),  # type: ignore[arg-type]
        "results_before_the_kill": before,
        "results": len(there),
        "equal_to_the_local_run": sum(there[name] == local[name] for name in there.keys() & local.keys()),
        "status": [status, here],
        "seconds": [round(seconds, 1), round(time.monotonic() - begin, 1)],
    }
    print(summary)
    write_json(RESULTS / "compare_on_a_cluster.json", {"summary": summary, "provenance": provenance(seed=0)})


if __name__ == "__main__":
    main()

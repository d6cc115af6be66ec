"""
A training of two processes, one of which is killed at a random time, ten times over.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/joint_training_kills.py

trains on ``TMazePassive10-v0`` by ``torchrun -m sb3_elmur.zoo train``, kills the first and the second process in turn by
``kill -9``, and continues the run by ``--continue``, until it has been killed ``--kills`` times; the last continuation trains
to the end. Written down for each kill: whose it was, seconds until torchrun had ended, whether a message said how to go on and
the steps after which the next one went on. Writes ``benchmarks/results/joint_training_kills.json``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, provenance, write_json

from sb3_elmur import RecurrentPPO
from sb3_elmur.zoo.states import latest_state

ENV, N_STEPS, LIMIT = "TMazePassive10-v0", 24_576, 30.0
SETTINGS = ["n_envs:16", "n_steps:64", "batch_size:256", "policy_kwargs:dict(d_model=32, segment_length=5, memory_size=2)"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
BEGUN = ("Log path", "Going on after")  # printed when training begins
CURE = "To go on"


def start(arguments: Sequence[str], output: Path) -> subprocess.Popen:
    """Start a training; it prints to a file."""
    with output.open("w") as file:
        return subprocess.Popen([*TORCHRUN, "-m", "sb3_elmur.zoo", "train", *arguments], stdout=file, stderr=subprocess.STDOUT)


def processes(torchrun: int) -> dict[int, int]:
    """The processes that torchrun has started, by rank."""
    ranks = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):  # it has ended, or is another user's
            continue
        if parent == torchrun:
            ranks |= {int(word[5:]): int(folder.name) for word in words if word.startswith(b"RANK=")}
    return ranks


def wait_until_it_trains(process: subprocess.Popen, output: Path) -> None:
    """Return when a training has begun."""
    while not any(sign in output.read_text() for sign in BEGUN):
        if process.poll() is not None:
            raise RuntimeError(output.read_text())
        time.sleep(0.1)


def main() -> None:
    """Kill, continue, and write down what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--latest", type=float, default=10.0, help="seconds of training, at most, before a kill")
    options = parser.parse_args()
    generator, rows = random.Random(0), []
    with tempfile.TemporaryDirectory() as folder:
        logs, output = Path(folder) / "logs", Path(folder) / "output"
        run = logs / "ppo_elmur" / f"{ENV}_1"
        arguments = [
            "--env",
            ENV,
            "-f",
            str(logs),
            "-n",
            str(N_STEPS),
            "--seed",
            "0",
            "--eval-freq",
            "8192",
            "--device",
            "cpu",
        ]
        arguments += ["-params", *SETTINGS]
        for kill in range(options.kills):
            rank = kill % 2
            process = start(arguments, output)
            wait_until_it_trains(process, output)
            time.sleep(generator.uniform(0, options.latest))
            os.kill(processes(process.pid)[rank], signal.SIGKILL)
            killed = time.monotonic()
            process.wait(4 * LIMIT)
            seconds, text = time.monotonic() - killed, output.read_text()
            state = latest_state(run)
            row: dict[str, Any] = {
                "rank": rank,
                "seconds": round(seconds, 2),
                "status": process.returncode,
                "told_how_to_go_on": CURE in text,
                "goes_on_after": 0 if state is None else state.n_timesteps,
            }
            print(row, flush=True)
            rows.append(row)
            arguments = ["--continue", str(run)]
        process = start(arguments, output)
        if process.wait():
            raise RuntimeError(output.read_text())
        text, n_steps = output.read_text(), RecurrentPPO.load(run / f"{ENV}.zip").num_timesteps
    summary = {
        "kills": len(rows),
        "ended_in_time": sum(row["seconds"] < LIMIT for row in rows),
        "told_how_to_go_on": sum(row["told_how_to_go_on"] for row in rows),
        "slowest_seconds": max(row["seconds"] for row in rows),
        "went_on_after": rows[-1]["goes_on_after"],
        "said_so": f"Going on after {rows[-1]['goes_on_after']} of" in text or not rows[-1]["goes_on_after"],
        "steps_asked_for": N_STEPS,
        "steps_learned_from": n_steps,
    }
    print(summary)
    write_json(RESULTS / "joint_training_kills.json", {"summary": summary, "kills": rows, "provenance": provenance(seed=0)})


if __name__ == "__main__":
    main()

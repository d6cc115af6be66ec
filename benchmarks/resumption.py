"""
Trainings that are killed at random times and continued, beside trainings that are not.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/resumption.py

trains on ``TMazePassive10-v0`` by ``sb3-elmur train``: once for each seed without an interruption, then ``--kills`` times with
``kill -9`` at a random time, followed by ``sb3-elmur train --continue``. It counts runs that did not learn from exactly as
many steps as were asked for, evaluations and episodes that are told twice, and files that were there before the kill and were
damaged by what came after it: that are gone, cannot be read, or have changed. Writes ``benchmarks/results/resumption.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import RESULTS, provenance, write_json
from stable_baselines3.common.monitor import load_results

from sb3_elmur import RecurrentPPO
from sb3_elmur.envs.tmaze import TMazeVecEnv
from sb3_elmur.evaluation import run_episodes
from sb3_elmur.zoo.commands import train
from sb3_elmur.zoo.states import FOLDER

ENV, N_STEPS, SEEDS = "TMazePassive10-v0", 49_152, (0, 1, 2, 3)
EPISODES, EVALUATION_SEED = 200, 1000
SETTINGS = ["n_envs:16", "n_steps:64", "batch_size:256", "policy_kwargs:dict(d_model=32, segment_length=5, memory_size=2)"]
OPTIONS = ["--eval-freq", "8192", "--eval-episodes", "4", "--n-eval-envs", "4", "--save-freq", "8192", "--device", "cpu"]


def words(logs: Path, seed: int) -> list[str]:
    """The command line of a training."""
    return ["--env", ENV, "-f", str(logs), "-n", str(N_STEPS), "--seed", str(seed), *OPTIONS, "-params", *SETTINGS]


def start(arguments: Sequence[str], output: Path) -> int:
    """Run ``sb3-elmur train`` in a process of its own; return its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        with output.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["sb3-elmur", "train"]
        train(arguments)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(process: int, seconds: float | None = None) -> int | None:
    """Wait for a process; return its status, or ``None`` if it was killed after so many seconds."""
    if seconds is None:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def digests(folder: Path) -> dict[Path, str]:
    """What is in every file below a folder, hidden ones (which are half-written) left out."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def unreadable(folder: Path) -> list[str]:
    """Models and archives below a folder that are not whole, hidden ones left out."""
    bad = []
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or path.suffix not in (".zip", ".npz"):
            continue
        try:
            with zipfile.ZipFile(path) as file:
                if broken := file.testzip():
                    bad.append(f"{path.relative_to(folder)}: {broken}")
        except zipfile.BadZipFile as error:
            bad.append(f"{path.relative_to(folder)}: {error}")
    return bad


def told_steps(run: Path) -> int:
    """Steps of all episodes in the logs."""
    try:
        return int(load_results(str(run))["l"].sum())
    except (ValueError, IndexError):  # no episode yet
        return 0


def judge(run: Path, before: dict[Path, str]) -> list[str]:
    """What is wrong with a finished run; ``before`` are its files at the kill."""
    faults = unreadable(run)
    model = RecurrentPPO.load(run / f"{ENV}.zip", device="cpu")
    if model.num_timesteps != N_STEPS:
        faults.append(f"{model.num_timesteps} steps")
    if model._n_updates != N_STEPS // (16 * 64) * model.n_epochs:
        faults.append(f"{model._n_updates} updates")
    if not 0 < told_steps(run) <= N_STEPS:
        faults.append(f"episodes of {told_steps(run)} steps in all")
    evaluated = np.load(run / "evaluations.npz")["timesteps"].tolist()
    if evaluated != list(range(8192, N_STEPS + 1, 8192)):
        faults.append(f"evaluations at {evaluated}")
    passing = (FOLDER, "monitor.csv")  # states last until the run is finished; logs get other names
    gone = [path for path in before if not (run / path).exists() and not any(word in str(path) for word in passing)]
    faults += [f"{path} is gone" for path in gone]
    kept = [path for path in before if path.name.startswith("rl_model") and FOLDER not in path.parts and path not in gone]
    now = digests(run)
    faults += [f"{path} has changed" for path in kept if now[path] != before[path] and path.suffix == ".zip"]
    return faults


def success(run: Path) -> float:
    """Share of right turns of the finished model, in corridors of 10 steps."""
    model = RecurrentPPO.load(run / f"{ENV}.zip", device="cpu")
    episodes = run_episodes(model.policy, TMazeVecEnv(EPISODES, length=10), EVALUATION_SEED)
    return float(np.mean([episode["is_success"] for episode in episodes]))


def newest(logs: Path) -> Path | None:
    """The run folder that was made last."""
    runs = sorted((logs / "ppo_elmur").glob(f"{ENV}_*"), key=lambda run: int(run.name.split("_")[-1]))
    return runs[-1] if runs else None


def finish(arguments: Sequence[str], logs: Path, output: Path) -> Path:
    """Train to the end; return the run folder."""
    if wait(start(arguments, output)) != 0:
        raise RuntimeError(output.read_text()[-2000:])
    run = newest(logs)
    assert run is not None
    return run


def kill_once(logs: Path, seed: int, moment: float, output: Path) -> dict[str, Any]:
    """Kill a training after ``moment`` seconds, continue it, and tell what became of it."""
    others, last = digests(logs), newest(logs)
    ended = wait(start(words(logs, seed), output), moment)
    run = newest(logs)
    begun = run is not None and run != last and next(run.glob("*/config.yml"), None) is not None
    before = digests(run) if run is not None and begun else {}
    entry: dict[str, Any] = {"seed": seed, "killed after": round(moment, 1), "begun": begun, "killed": ended is None}
    entry["states"] = sum(path.suffix == ".zip" and FOLDER in path.parts for path in before)
    try:
        if ended is None:  # what had not begun to train is started again
            run = finish(["--continue", str(run)] if begun else words(logs, seed), logs, output)
        assert run is not None
        faults = judge(run, before)
        entry["success"] = success(run)
    except RuntimeError as error:
        faults = [str(error)]
    now = digests(logs)
    faults += [f"{path} of another run has changed" for path, digest in others.items() if now.get(path) != digest]
    return {**entry, "faults": faults}


def main() -> None:
    """Run all trainings, print what was found and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    options = parser.parse_args()
    th.set_num_threads(1)
    rng = random.Random(options.seed)
    whole: list[dict[str, Any]] = []
    killed: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        logs = Path(name) / "logs"
        for seed in SEEDS:
            begun = time.monotonic()
            run = finish(words(logs, seed), logs, Path(name) / f"whole_{seed}.txt")
            whole.append({"seed": seed, "seconds": round(time.monotonic() - begun, 1), "success": success(run)})
            whole[-1]["faults"] = judge(run, {})
            print(whole[-1], flush=True)
        duration = min(entry["seconds"] for entry in whole)
        ended = 0
        while len(killed) < options.kills:
            index = len(killed) + ended
            entry = kill_once(logs, SEEDS[index % len(SEEDS)], rng.uniform(0.0, duration), Path(name) / f"{index}.txt")
            if entry["killed"]:
                killed.append(entry)
            else:  # it had ended before
                ended += 1
            print(entry, flush=True)
    report = {
        **provenance(options.seed),
        "steps": N_STEPS,
        "kills": options.kills,
        "runs with faults": sum(bool(entry["faults"]) for entry in killed),
        "success uninterrupted": float(np.mean([entry["success"] for entry in whole])),
        "success continued": float(np.mean([entry["success"] for entry in killed if "success" in entry])),
        "uninterrupted": whole,
        "continued": killed,
    }
    write_json(RESULTS / "resumption.json", report)


if __name__ == "__main__":
    main()

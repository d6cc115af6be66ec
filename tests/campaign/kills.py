"""Commands that are killed at random times: continued, they come to the same result, and nothing that was saved is lost."""

import io
import json
import os
import random
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
import yaml
from stable_baselines3.common.env_util import make_vec_env

from helpers import SMALL, make_model
from sb3_elmur import RecurrentPPO
from sb3_elmur.bc import command as bc
from sb3_elmur.comparison import command as comparison
from sb3_elmur.comparison.cells import GREEDY
from sb3_elmur.evaluation import command as evaluation
from sb3_elmur.recording import command as recording
from sb3_elmur.recording import record
from sb3_elmur.zoo.commands import train

ENV = "TMazePassive30-v0"


class Command(NamedTuple):
    """
    A command that is killed.

    :param name: What is counted.
    :param run: Runs it in a folder, or continues it there.
    :param result: What it has come to in a folder; compared by ``==``.
    :param damaged: What is not whole in a folder, looked for after every kill.
    """

    name: str
    run: Callable[[Path], None]
    result: Callable[[Path], Any]
    damaged: Callable[[Path], list[str]] = lambda place: []


def make_commands(folder: Path) -> list[Command]:
    """
    All commands, small.

    :param folder: Where their inputs are made.
    """
    record(ENV, "oracle", folder / "data", 12, env_kwargs={"corridor_length": (1, 28)})
    make_model(RecurrentPPO, make_vec_env(ENV, 2)).save(folder / "model")
    settings = {"policy_kwargs": SMALL, "n_epochs": 6, "batch_size": 4, "eval_freq": 3, "n_eval_episodes": 1, "save_freq": 1}
    (folder / "bc.yml").write_text(yaml.safe_dump({"default": settings}))
    zoo = {
        "policy": "ElmurPolicy", "n_timesteps": 400, "n_envs": 2, "n_steps": 50, "batch_size": 50, "policy_kwargs": SMALL
    }  # fmt: skip
    (folder / "zoo.yml").write_text(yaml.safe_dump({ENV: zoo}))

    def run_bc(place: Path) -> None:
        if any(place.glob(f"bc_elmur/*/{ENV}.zip")):  # killed after its last file
            return
        words = ["--env", ENV, "--data", str(folder / "data"), "--conf-file", str(folder / "bc.yml"), "-f", str(place)]
        bc.main([*words, "--device", "cpu", "--no-progress", "--continue"])

    def run_evaluate(*options: str) -> Callable[[Path], None]:
        def run(place: Path) -> None:
            evaluation.main([str(folder / "model.zip"), "-o", str(place / "record.json"), "--no-progress", *options])

        return run

    def run_record(place: Path) -> None:
        words = ["--env", ENV, "--expert", "oracle", "--episodes", "60", "--output", str(place / "data"), "--no-progress"]
        recording.main(words)

    def run_train(place: Path) -> None:
        if any(place.glob(f"ppo_elmur/*/{ENV}.zip")):
            return
        if begun := sorted(place.glob("ppo_elmur/*/*/config.yml")):
            return train(["--continue", str(begun[-1].parents[1])])
        words = ["--env", ENV, "-f", str(place), "--conf-file", str(folder / "zoo.yml"), "--save-freq", "50"]
        train([*words, "--eval-freq", "200", "--device", "cpu", "-n", "400"])

    overrides = {key: value for key, value in zoo.items() if key != "policy"} | {"n_timesteps": 100}
    matrix = {
        "kind": "online", "envs": [ENV], "agents": {"elmur": overrides, "oracle": {"algo": "oracle"}}, "seeds": [0],
        "n_eval_episodes": 4, "score": {"measure": "success"},
    }  # fmt: skip
    (folder / "matrix.yml").write_text(yaml.safe_dump(matrix))

    def run_compare(place: Path) -> None:
        words = ["--workers", "1", "--results", str(place / "results"), "--data", str(folder / "demonstrations")]
        comparison.main([str(folder / "matrix.yml"), *words])

    return [
        Command("record", run_record, _episodes),
        Command("evaluate_stepped", run_evaluate("--env", ENV, "--episodes", "60", "--n-envs", "3"), _record),
        Command("evaluate_corridors", run_evaluate("--lengths", "10", "3000", "--episodes", "5"), _record),
        Command("bc", run_bc, _weights),
        Command("compare", run_compare, _cells),
        Command("train", run_train, _steps, _damaged),
    ]


def _episodes(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.glob("data/[!.]*.npz"))}


def _record(place: Path) -> list[Any]:
    content = json.loads((place / "record.json").read_text())
    return [content[name] for name in ("settings", "steps", "results", "episodes")]


def _weights(place: Path) -> list[list[float]]:
    paths = list(place.glob(f"bc_elmur/{ENV}_*/{ENV}.zip"))
    assert len(paths) == 1, paths
    with zipfile.ZipFile(paths[0]) as file:
        state = th.load(io.BytesIO(file.read("policy.pth")), weights_only=True)
    return [tensor.flatten().tolist() for tensor in state.values()]


def _cells(place: Path) -> dict[str, Any]:
    """What each cell has measured, but for times."""
    results = {path.name: json.loads(path.read_text()) for path in sorted(place.glob("results/matrix/[!.]*.json"))}
    return {name: [result["plan"], result[GREEDY]] for name, result in results.items()}


def _steps(place: Path) -> int:
    (path,) = place.glob(f"ppo_elmur/*/{ENV}.zip")
    return RecurrentPPO.load(path, device="cpu").num_timesteps


def _damaged(place: Path) -> list[str]:
    """Models and archives that are not whole."""
    damaged = []
    for path in place.rglob("*"):
        if path.name.startswith("."):  # half written, and never looked at
            continue
        if path.suffix == ".zip":
            try:
                RecurrentPPO.load(path, device="cpu")
            except Exception as error:
                damaged.append(f"{path.name}: {error!r}")
        elif path.suffix == ".npz":
            np.load(path)
    return damaged


def kill_at_random(command: Command, folder: Path, n_kills: int, seed: int, seconds: float) -> dict[str, Any]:
    """
    Kill a command at random times, and continue it until it ends, again and again.

    :param command: What is killed.
    :param folder: Where it runs.
    :param n_kills: How many kills there are to be.
    :param seed: Of the times.
    :param seconds: How long it may take.
    :return: Kills, ends, ends with another result, errors, and seconds.
    """
    rng, begun = random.Random(f"{command.name} {seed}"), time.monotonic()
    whole = folder / "whole"
    whole.mkdir(parents=True)
    duration = time.monotonic()
    status = _run(command, whole, seconds)
    duration = time.monotonic() - duration
    expected = command.result(whole) if status == 0 else None
    counts = {"kills": 0, "ends": 0, "other_results": 0, "errors": int(status not in (0, None))}
    messages: list[str] = [] if status == 0 else [(whole / "output.txt").read_text()[-300:] if status else "out of time"]
    while status == 0 and counts["kills"] < n_kills and time.monotonic() - begun < seconds:
        place = folder / "killed"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for _ in range(rng.randint(1, 4)):
            ended = _run(command, place, rng.uniform(0.0, duration))
            counts["kills"] += ended is None
            if damaged := command.damaged(place):
                counts["other_results"] += 1
                messages += damaged
            if ended is not None:
                break
        if _run(command, place, None) != 0:
            counts["errors"] += 1
            messages.append((place / "output.txt").read_text()[-300:])
            continue
        counts["ends"] += 1
        counts["other_results"] += command.result(place) != expected
    return {**counts, "seconds": round(time.monotonic() - begun), "messages": messages[:5]}


def _run(command: Command, place: Path, kill_after: float | None) -> int | None:
    """Run in a process of its own; return its status, or ``None`` if it was killed."""
    process = os.fork()
    if not process:
        _run_and_exit(command.run, place)
    end = time.monotonic() + (600.0 if kill_after is None else kill_after)
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def _run_and_exit(run: Callable[[Path], None], place: Path, argv: Sequence[str] = ("command",)) -> None:
    status = 1
    try:
        with (place / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.argv = list(argv)
        th.set_num_threads(1)
        run(place)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

"""States of training: all that an interrupted run needs to go on, saved between an update and the next rollout."""

import random
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.claims import claim, release
from sb3_elmur.command_line import SettingsError
from sb3_elmur.core.arguments import check_count
from sb3_elmur.saved_statistics import check_statistics, find_statistics
from sb3_elmur.zoo.saving import save

FOLDER = "resume"  # of a run folder, until the run is finished
FILE = "state.pt"  # beside the statistics of a state's model
UNTIL = "until_"  # begins the names of logs of an interrupted run's finished part
N_KEPT = 2
SHARE = 0.01  # of a training, at most, between two states
SECONDS = 30.0  # at most, between two states


class State(NamedTuple):
    """
    Where a run can go on.

    :param model: Its zip file.
    :param n_timesteps: Steps that were taken, and learned from.
    :param generators: Of random numbers.
    :param logs: Sizes of the files of episodes, in bytes, by name.
    :param weights: Of the policy that trains; its model has their running average.
    :param n_averaged: Updates that this average has followed.
    """

    model: Path
    n_timesteps: int
    generators: dict[str, Any]
    logs: dict[str, int]
    weights: dict[str, th.Tensor]
    n_averaged: int


class SaveState(BaseCallback):
    """
    Saves a state now and then, and keeps the latest two.

    :param run: The run folder.
    :param n_timesteps: Of the whole training.

    Attribute ``ended`` says whether training has come to its end.
    """

    def __init__(self, run: Path, n_timesteps: int) -> None:
        super().__init__()
        self.run, self.interval = run, max(1.0, n_timesteps * SHARE)
        self.latest, self.latest_time, self.ended = 0, 0.0, False

    def _on_step(self) -> bool:
        return True

    def _on_training_start(self) -> None:
        self.latest, self.latest_time = self.num_timesteps, time.monotonic()
        claim(self.run, self.run / FOLDER)

    def _on_training_end(self) -> None:
        self.ended = True

    def _on_rollout_start(self) -> None:
        steps, seconds = self.num_timesteps - self.latest, time.monotonic() - self.latest_time
        if steps == 0 or (steps < self.interval and seconds < SECONDS):
            return
        self.latest, self.latest_time = self.num_timesteps, time.monotonic()
        model = self.run / FOLDER / f"rl_model_{self.num_timesteps}_steps.zip"
        model.with_suffix("").mkdir(parents=True, exist_ok=True)
        save(self.model, model)
        logs = {path.name: path.stat().st_size for path in self.run.glob("*.monitor.csv")}
        with atomic_path(model.with_suffix("") / FILE) as temporary:  # the last, so that a state that has it is complete
            average = getattr(self.model, "average", None)
            weights, n_averaged = self.model.policy.state_dict(), 0 if average is None else average.n_updates
            th.save({"generators": _generators(), "logs": logs, "weights": weights, "n_averaged": n_averaged}, temporary)
        for old in _complete(self.run)[:-N_KEPT]:
            shutil.rmtree(old.with_suffix(""))
            old.unlink()


def latest_state(run: Path) -> State | None:
    """
    Where a run goes on.

    :param run: The run folder.
    :return: Its latest state that is not damaged, or ``None`` if it was interrupted before it saved any.
    :raises SettingsError: If all are damaged, or of a version that went on otherwise.
    """
    models = _complete(run)
    for model in reversed(models):
        try:
            return _read_state(model)
        except ValueError as error:
            if model == models[0]:
                raise SettingsError(str(error)) from error
            print(f"{error} The state before it is taken.")
    return None


def _read_state(model: Path) -> State:
    path = model.with_suffix("") / FILE
    try:
        content = th.load(path, map_location="cpu", weights_only=True)
        names, generators = set(State._fields[2:]), set(_generators())
        if set(content) != names or set(content["generators"]) != generators:
            raise ValueError(f"It must have {', '.join(sorted(names))}, and as generators {', '.join(sorted(generators))}.")
        check_count("n_averaged", content["n_averaged"], 0)
        for name, size in content["logs"].items():
            check_count(name, size, 0)
        with zipfile.ZipFile(model) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} of {model} is damaged.")
        if statistics := find_statistics(model):
            check_statistics(statistics)
    except Exception as error:  # whatever PyTorch and pickle make of damaged and foreign files
        raise ValueError(
            f"The state of {path} is damaged, or of another version: {' '.join(str(error).split()):.200}"
        ) from error
    return State(model, _steps(model), **content)


def finish(run: Path) -> None:
    """
    Delete the states of a run that has come to its end.

    :param run: The run folder.
    """
    states, ended = run / FOLDER, run / f".{FOLDER}.ended"
    shutil.rmtree(ended, ignore_errors=True)
    if states.exists():
        states.rename(ended)  # at once, so that no run that is killed here looks as if it were interrupted
    release(states)
    shutil.rmtree(ended, ignore_errors=True)


def restore_logs(run: Path, state: State | None) -> None:
    """
    Leave of the files of episodes what came before a state, under names that no environment writes to.

    :param run: The run folder.
    :param state: Of the run; before ``None`` there was nothing.
    """
    kept = set()
    logs, n_timesteps = ({}, 0) if state is None else (state.logs, state.n_timesteps)
    for name, size in logs.items():
        before = run / (name if name.startswith(UNTIL) else f"{UNTIL}{n_timesteps}.{name}")
        if not before.exists() and not (run / name).exists():
            print(f"{run / name} is not there any more: its episodes are lost.")
            continue
        if not before.exists():
            with (run / name).open("rb+") as file:
                file.truncate(size)
            (run / name).rename(before)
        kept.add(before)
    for path in set(run.glob("*.monitor.csv")) - kept:
        path.unlink()


def restore_generators(generators: dict[str, Any]) -> None:
    """
    Set all generators of random numbers to where they were, those of GPUs as far as there are as many.

    :param generators: Of a :class:`State`.
    """
    th.set_rng_state(generators["torch"])
    for device, state in zip(range(th.cuda.device_count()), generators["cuda"], strict=False):
        th.cuda.set_rng_state(state, device)
    name, keys, *rest = generators["numpy"]
    np.random.set_state((name, np.asarray(keys, np.uint32), *rest))
    version, numbers, gauss = generators["python"]
    random.setstate((version, tuple(numbers), gauss))


def _generators() -> dict[str, Any]:
    """Tensors and built-in values, which PyTorch loads without running anything."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, next_gauss = random.getstate()
    return {
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "python": [version, list(numbers), next_gauss],
    }


def _complete(run: Path) -> list[Path]:
    """Models of states that were saved to the end, in order."""
    models = (run / FOLDER).glob("rl_model_*_steps.zip")
    return sorted((path for path in models if (path.with_suffix("") / FILE).is_file()), key=_steps)


def _steps(model: Path) -> int:
    return int(model.stem.split("_")[2])

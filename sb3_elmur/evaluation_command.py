"""The command line of long-horizon evaluation, with a record that an interrupted run continues."""

import argparse
import hashlib
import importlib
import json
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch as th
from tqdm import tqdm

from sb3_elmur.envs.batch import make_batch
from sb3_elmur.evaluation import Corridors, Walk, run_episodes, wilson_interval
from sb3_elmur.files import atomic_path
from sb3_elmur.memory import Memory
from sb3_elmur.options import key_value
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.ppo import RecurrentPPO

SECONDS_BETWEEN_RECORDS = 30.0


class Record:
    """
    What an evaluation has found so far, in a JSON file; corridors that are under way lie beside it, in an ``.npz`` file.

    :param path: The JSON file, or ``None`` to keep nothing.
    :param settings: What a record must have in common with this evaluation to be continued.
    :raises ValueError: If the file is the record of another evaluation, or none at all.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path, self.content = path, {"settings": settings, "seconds": 0.0, "results": {}}
        self._saved = time.perf_counter()
        if path is None or not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            theirs = found["settings"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not the record of an evaluation: {error!r}") from error
        if theirs != settings:
            different = {key: theirs.get(key) for key in settings if theirs.get(key) != settings[key]}
            raise ValueError(f"{path} is the record of another evaluation, with {different}. Choose another `--output`.")
        self.content = found

    @property
    def results(self) -> dict[str, Any]:
        """Results by name; those that are there need not be computed again."""
        return self.content["results"]

    @property
    def walk_path(self) -> Path | None:
        """Where corridors that are under way are kept."""
        return None if self.path is None else self.path.with_suffix(".npz")

    def due(self) -> bool:
        """Whether the last saving was a while ago."""
        return time.perf_counter() - self._saved > SECONDS_BETWEEN_RECORDS

    def save(self) -> None:
        """Write the record."""
        now = time.perf_counter()
        self.content["seconds"] += now - self._saved
        self._saved = now
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(self.content, indent=2) + "\n")


def save_walk(path: Path, walk: Walk) -> None:
    """Write a walk to an ``.npz`` file."""
    memory = {name: field.cpu().numpy() for name, field in walk.memory._asdict().items()}
    reached = np.array(list(walk.results), dtype=np.int64)
    successes = np.array(list(walk.results.values()), dtype=bool).reshape(len(reached), len(walk.late))
    with atomic_path(path) as temporary:
        np.savez(temporary, late=walk.late, reached=reached, successes=successes, **memory)


def load_walk(path: Path, like: Walk) -> Walk:
    """
    Read what :func:`save_walk` wrote.

    :param path: The file.
    :param like: A walk of the same policy and size.
    :raises ValueError: If the file is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        memory = Memory(*(th.as_tensor(arrays[name], device=field.device) for name, field in like.memory._asdict().items()))
        walk = Walk(memory, arrays["late"], dict(zip(arrays["reached"].tolist(), arrays["successes"], strict=True)))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} does not hold corridors that are under way: {error!r}. Delete it to begin anew.") from error
    if walk.memory.slots.shape != like.memory.slots.shape:
        raise ValueError(f"{path} holds corridors of another policy. Delete it to begin anew.")
    return walk


def evaluate_corridors(
    policy: ElmurPolicy, lengths: Sequence[int], n_episodes: int, seed: int, record: Record, progress_bar: bool
) -> None:
    """
    Evaluate corridors of several lengths, and record the success at each.

    :param policy: What is evaluated.
    :param lengths: Step limits.
    :param n_episodes: Corridors of each length.
    :param seed: Seed of goals and noise.
    :param record: Where results go.
    :param progress_bar: Whether to show one.
    """
    corridors = Corridors(policy, lengths, n_episodes, seed)
    path = record.walk_path
    if path is not None and path.exists():
        corridors.restore(load_walk(path, corridors.walk))
    with tqdm(total=max(lengths), initial=corridors.time, unit="step", disable=not progress_bar) as bar:
        while not corridors.finished:
            n_reached = len(corridors.results)
            corridors.advance()
            bar.update(corridors.segment_length)
            if len(corridors.results) > n_reached or record.due():
                for length, successes in corridors.results.items():
                    record.results[str(length)] = summarise({"is_success": successes})
                if path is not None:
                    save_walk(path, corridors.walk)
                record.save()
    if path is not None:
        path.unlink(missing_ok=True)


def evaluate_episodes(policy: ElmurPolicy, make: Any, n_episodes: int, seed: int, record: Record, progress_bar: bool) -> None:
    """
    Evaluate episodes of any environment, batch by batch.

    :param policy: What is evaluated.
    :param make: Makes the batch of environments.
    :param n_episodes: Episodes; rounded up to whole batches.
    :param seed: Seed of the first episode.
    :param record: Where results go.
    :param progress_bar: Whether to show one.
    """
    env = make()
    episodes = record.content.setdefault("episodes", [])
    with tqdm(total=n_episodes, initial=len(episodes), unit="episode", disable=not progress_bar) as bar:
        while len(episodes) < n_episodes:
            episodes += run_episodes(policy, env, seed + len(episodes))
            bar.update(env.num_envs)
            record.results["episodes"] = summarise({key: [e[key] for e in episodes] for key in episodes[0]})
            record.save()
    env.close()


def summarise(values: dict[str, Any]) -> dict[str, Any]:
    """Means, and the 95% confidence interval of each kind of success."""
    summary: dict[str, Any] = {"n": len(next(iter(values.values())))}
    for name, value in values.items():
        summary[name] = float(np.mean(value))
        if name.endswith("success"):
            summary[f"{name}_95%"] = [round(bound, 4) for bound in wilson_interval(summary[name], len(value))]
    return summary


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_elmur.evaluation",
        description="Evaluate a saved model over many, and very long, episodes, with the most probable actions.",
    )
    parser.add_argument("model", type=Path, help="zip file of sb3_elmur.RecurrentPPO, trained online or cloned")
    parser.add_argument("--env", default="TMazePassive-v0", help="id of the environment (default %(default)s)")
    parser.add_argument("--env-kwargs", nargs="+", type=key_value, default=[], metavar="KEY:VALUE")
    parser.add_argument("--lengths", nargs="+", type=int, help="evaluate passive T-Maze corridors of all these step limits")
    parser.add_argument("--episodes", type=int, default=100, help="episodes (of each length; default %(default)s)")
    parser.add_argument("--n-envs", type=int, help="environments stepped together (default: all episodes, at most 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="JSON record; an interrupted evaluation continues from it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--gym-packages", nargs="*", default=[], help="packages to import, that register environments")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Evaluate a saved model.

    :param arguments: Command line; ``None`` means that of the process.
    """
    options = make_parser().parse_args(arguments)
    for package in options.gym_packages:
        importlib.import_module(package)
    try:
        record = evaluate(options)
    except (ValueError, TypeError, FileNotFoundError, gymnasium.error.Error) as error:
        sys.exit(f"error: {error}")
    print(f"{record.content['seconds']:.0f} s")
    for name, result in record.results.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in result.items()))


def evaluate(options: argparse.Namespace) -> Record:
    """
    Evaluate as the options say.

    :param options: Of :func:`make_parser`.
    :return: The finished record.
    """
    policy = RecurrentPPO.load(options.model, device=options.device).policy
    env_kwargs = dict(options.env_kwargs)
    settings = {
        "model_sha256": hashlib.sha256(options.model.read_bytes()).hexdigest(),
        "env": options.env,
        "env_kwargs": {key: list(value) if isinstance(value, tuple) else value for key, value in env_kwargs.items()},
        "lengths": options.lengths,
        "n_episodes": options.episodes,
        "seed": options.seed,
    }
    record = Record(options.output, settings)
    progress_bar = not options.no_progress
    if options.lengths:
        if options.env != "TMazePassive-v0" or env_kwargs:
            raise ValueError("`--lengths` is for `--env TMazePassive-v0` without `--env-kwargs`.")
        evaluate_corridors(policy, options.lengths, options.episodes, options.seed, record, progress_bar)
    else:
        n_envs = options.n_envs or min(options.episodes, 100)
        evaluate_episodes(
            policy, lambda: make_batch(options.env, n_envs, env_kwargs), options.episodes, options.seed, record, progress_bar
        )
    return record

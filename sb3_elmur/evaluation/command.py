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
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.command_line import key_value
from sb3_elmur.core.memory import Memory
from sb3_elmur.envs.arguments import check_integer
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.evaluation.corridors import Corridors, Walk, run_episodes, wilson_interval
from sb3_elmur.models import as_in_training, find_normalization, load_policy
from sb3_elmur.policies import ElmurPolicy

SECONDS_BETWEEN_RECORDS = 30.0
INTERVAL = "_95%"  # ends the name of a success rate's confidence interval


class Record:
    """
    What an evaluation has found so far, in a JSON file.

    :param path: The file, which is continued if it is there, and whose folder is made; ``None`` keeps nothing.
    :param settings: What the file must have in common with this evaluation.
    :raises ValueError: If the file is the record of another evaluation, or none at all.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.content: dict[str, Any] = {
            "settings": settings, "steps": 0, "seconds": 0.0, "steps_per_second": 0.0, "results": {}, "episodes": []
        }  # fmt: skip
        self._saved = time.perf_counter()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not the record of an evaluation: {error}") from error
        if not isinstance(found, dict) or _types(found) != _types(self.content):
            raise ValueError(f"{path} is not the record of an evaluation.")
        if different := [name for name in settings if found["settings"].get(name) != settings[name]]:
            raise ValueError(
                f"{path} is the record of an evaluation with other {', '.join(different)}. Choose another `--output`."
            )
        self.content = found

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Of each length, or of ``"episodes"``, what :func:`summarise` says."""
        return self.content["results"]

    @property
    def episodes(self) -> list[dict[str, float]]:
        """What :func:`sb3_elmur.evaluation.corridors.run_episodes` returned."""
        return self.content["episodes"]

    @property
    def walk_path(self) -> Path | None:
        """Where corridors that are under way are kept."""
        return None if self.path is None else self.path.with_name(f"{self.path.name}.walk.npz")

    def due(self) -> bool:
        """Whether the last saving was a while ago."""
        return time.perf_counter() - self._saved > SECONDS_BETWEEN_RECORDS

    def save(self, steps: int) -> None:
        """
        Write the record.

        :param steps: Environment steps since the last saving.
        """
        now = time.perf_counter()
        self.content["steps"] += steps
        self.content["seconds"] += now - self._saved
        self.content["steps_per_second"] = round(self.content["steps"] / self.content["seconds"], 1)
        self._saved = now
        if self.path is not None:
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(self.content, indent=2) + "\n")

    def rows(self) -> list[tuple[str, float, Sequence[float] | None]]:
        """Label, value and confidence interval for each length, or for each kind of outcome of the episodes."""
        outcomes = self.results.get("episodes")
        if outcomes is None:
            found = [(f"{int(length):,}", "is_success", result) for length, result in self.results.items()]
        else:
            found = [(name, name, outcomes) for name in outcomes if name != "n" and not name.endswith(INTERVAL)]
        return [(label, result[name], result.get(name + INTERVAL)) for label, name, result in found]

    def table(self) -> str:
        """The results as text."""
        of_lengths, content = "episodes" not in self.results, self.content
        lines = [f"{'length' if of_lengths else '':>12}{'success' if of_lengths else 'mean':>12}    95% interval"]
        for label, value, interval in self.rows():
            lines.append(f"{label:>12}{value:>12,.3f}" + ("    {:.3f} - {:.3f}".format(*interval) if interval else ""))
        return "\n".join(lines) + (
            f"\n{self.settings['n_episodes']:,} episodes{' of each length' if of_lengths else ''}, "
            f"{content['steps']:,} steps in {content['seconds']:,.0f} s: {content['steps_per_second']:,.0f} steps per second"
        )


def compare_models(records: Sequence[Record]) -> str:
    """
    Mean and standard error over models, such as those of several seeds, as text.

    :param records: Of the same evaluation, of at least two models.
    """
    lines = [f"{'':>12}{'mean':>12}    standard error over {len(records)} models"]
    for same in zip(*(record.rows() for record in records), strict=True):
        values = np.array([value for _, value, _ in same])
        lines.append(f"{same[0][0]:>12}{values.mean():>12,.3f}    {values.std(ddof=1) / len(values) ** 0.5:,.3f}")
    return "\n".join(lines)


def _types(content: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in content.items()}


def save_walk(path: Path, walk: Walk, settings: dict[str, Any]) -> None:
    """
    Write a walk to an ``.npz`` file.

    :param path: The file.
    :param walk: How far corridors have got.
    :param settings: Of the evaluation.
    """
    memory = {name: field.cpu().numpy() for name, field in walk.memory._asdict().items()}
    reached = np.array(list(walk.results), dtype=np.int64)
    successes = np.array(list(walk.results.values()), dtype=bool).reshape(len(reached), len(walk.late))
    with atomic_path(path) as temporary:
        np.savez(temporary, settings=json.dumps(settings), late=walk.late, reached=reached, successes=successes, **memory)


def load_walk(path: Path, settings: dict[str, Any], device: th.device) -> Walk:
    """
    Read what :func:`save_walk` wrote.

    :param path: The file.
    :param settings: Of the evaluation.
    :param device: Of the policy.
    :raises ValueError: If the file is something else, or of another evaluation.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        same = arrays["settings"].item() == json.dumps(settings)
        memory = Memory(*(th.as_tensor(arrays[name], device=device) for name in Memory._fields))
        walk = Walk(memory, arrays["late"], dict(zip(arrays["reached"].tolist(), arrays["successes"], strict=True)))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} does not hold corridors that are under way: {error!r}. Delete it to begin anew.") from error
    if not same:
        raise ValueError(f"{path} holds corridors of another evaluation. Delete it to begin anew.")
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
    if len(record.results) == len(lengths):
        return
    path, walk = record.walk_path, None
    if path is not None and path.exists():
        walk = load_walk(path, record.settings, policy.device)
    corridors = Corridors(policy, lengths, n_episodes, seed, walk)
    saved, longest = corridors.time, corridors.lengths[-1]
    with tqdm(total=longest, initial=saved, unit="step", unit_scale=True, disable=not progress_bar) as bar:
        while not corridors.finished:
            corridors.advance()
            bar.update(longest - bar.n if corridors.finished else corridors.segment_length)
            if corridors.finished or record.due():
                for length, successes in corridors.results.items():
                    record.results[str(length)] = summarise({"is_success": successes})
                if path is not None:
                    save_walk(path, corridors.walk, record.settings)
                record.save(n_episodes * (corridors.time - saved))
                saved = corridors.time
    if path is not None:
        path.unlink(missing_ok=True)


def evaluate_episodes(
    policy: ElmurPolicy, env: VecEnv, n_episodes: int, seed: int, record: Record, progress_bar: bool
) -> None:
    """
    Evaluate episodes of any environment, batch by batch; what a last batch has too many is left out.

    :param policy: What is evaluated.
    :param env: The batch of environments.
    :param n_episodes: Number of episodes.
    :param seed: Seed of the first episode; the others follow.
    :param record: Where results go.
    :param progress_bar: Whether to show one.
    """
    episodes = record.episodes
    with tqdm(total=n_episodes, initial=len(episodes), unit="episode", miniters=0, disable=not progress_bar) as bar:
        n_steps = 0

        def progress(n_ended: int) -> None:
            nonlocal n_steps
            n_steps += 1
            bar.set_postfix_str(f"step {n_steps:,}", refresh=False)
            bar.update(min(n_ended, n_episodes - bar.n))

        while len(episodes) < n_episodes:
            batch = run_episodes(policy, env, seed + len(episodes), progress)[: n_episodes - len(episodes)]
            episodes += batch
            record.results["episodes"] = summarise({name: [each[name] for each in episodes] for name in episodes[0]})
            record.save(sum(int(each["length"]) for each in batch))


def summarise(values: dict[str, Any]) -> dict[str, Any]:
    """
    Means, and the 95% confidence interval of each kind of success.

    :param values: Of each outcome its value in n episodes, (n,). Shares of successes count as one trial each, which makes
        their interval no narrower than it should be.
    """
    summary: dict[str, Any] = {"n": len(next(iter(values.values())))}
    for name, value in values.items():
        summary[name] = float(np.mean(value))
        if name.endswith("success"):
            summary[name + INTERVAL] = [round(bound, 4) for bound in wilson_interval(summary[name], len(value))]
    return summary


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="sb3-elmur evaluate",
        allow_abbrev=False,
        description="Evaluate a saved model over many, and very long, episodes, with the most probable actions.",
    )
    parser.add_argument(
        "models", nargs="+", type=Path, metavar="model",
        help="zip file of sb3_elmur.RecurrentPPO, trained online or cloned; of several, such as those of several seeds, mean "
        "and standard error are shown, too",
    )  # fmt: skip
    parser.add_argument("--env", default="TMazePassive-v0", help="id of the environment (default %(default)s)")
    parser.add_argument("--env-kwargs", nargs="+", type=key_value, default=[], metavar="KEY:VALUE")
    parser.add_argument("--lengths", nargs="+", type=int, help="evaluate passive T-Maze corridors of all these step limits")
    parser.add_argument("--episodes", type=int, default=100, help="episodes (of each length; default %(default)s)")
    parser.add_argument("--n-envs", type=int, help="environments stepped together (default: all episodes, at most 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode; the others follow")
    parser.add_argument(
        "-o", "--output", type=Path,
        help="JSON record, from which an interrupted evaluation continues; of several models a folder of records, 0.json, "
        "1.json and so on",
    )  # fmt: skip
    parser.add_argument("--device", default="auto")
    parser.add_argument("--gym-packages", nargs="*", default=[], help="packages to import, that register environments")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Evaluate saved models, and print what was found.

    :param arguments: Command line; ``None`` means that of the process.
    """
    options = make_parser().parse_args(arguments)
    try:
        for package in options.gym_packages:
            importlib.import_module(package)
        records = []
        for index, model in enumerate(options.models):
            single = len(options.models) == 1 or options.output is None
            records.append(evaluate(model, options.output if single else options.output / f"{index}.json", options))
            print(records[-1].table() if len(options.models) == 1 else f"{model}\n{records[-1].table()}")
    except (ValueError, TypeError, ImportError, OSError, gymnasium.error.Error) as error:
        sys.exit(f"error: {error}")
    if len(records) > 1:
        print(compare_models(records))


def evaluate(model: Path, output: Path | None, options: argparse.Namespace) -> Record:
    """
    Evaluate a model as the options say.

    :param model: Its zip file.
    :param output: Where its record goes.
    :param options: Of :func:`make_parser`.
    :return: The finished record.
    :raises ValueError: If an option or a file does not fit.
    """
    lengths, env_kwargs = options.lengths, dict(options.env_kwargs)
    n_episodes = check_integer("episodes", options.episodes, minimum=1)
    if lengths and (options.env != "TMazePassive-v0" or env_kwargs or options.n_envs):
        raise ValueError("`--lengths` is for `--env TMazePassive-v0` without `--env-kwargs` and `--n-envs`.")
    settings = {
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "env": options.env,
        "env_kwargs": env_kwargs,
        "lengths": lengths and sorted(lengths),
        "n_episodes": n_episodes,
        "seed": options.seed,
    }
    policy = load_policy(model, options.device)
    statistics = find_normalization(model)
    if statistics is not None:
        settings["vecnormalize_sha256"] = hashlib.sha256(statistics.read_bytes()).hexdigest()
    record = Record(output, json.loads(json.dumps(settings)))
    progress_bar = not options.no_progress
    if lengths:
        if statistics is not None:
            raise ValueError(f"`--lengths` is for policies that see the T-Maze as it is. {model} has {statistics}.")
        evaluate_corridors(policy, lengths, n_episodes, options.seed, record, progress_bar)
    else:
        n_envs = min(n_episodes, 100) if options.n_envs is None else check_integer("n_envs", options.n_envs, minimum=1)
        env = as_in_training(make_batch(options.env, n_envs, env_kwargs), statistics)
        evaluate_episodes(policy, env, n_episodes, options.seed, record, progress_bar)
        env.close()
    return record

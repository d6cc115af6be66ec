"""The command ``sb3-elmur evaluate``: saved models over many, and very long, episodes, with records that it goes on from."""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import gymnasium
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from sb3_elmur.command_line import SettingsError, add_common_options, take_common_options, told_in_one_line
from sb3_elmur.core.arguments import check_count
from sb3_elmur.envs import TMazeEnv
from sb3_elmur.envs.batch import creator_of, make_batch
from sb3_elmur.envs.tmaze.base import MazeVecEnv
from sb3_elmur.evaluation.corridors import Corridors
from sb3_elmur.evaluation.crossing import cross_episodes
from sb3_elmur.evaluation.episodes import run_episodes
from sb3_elmur.evaluation.record import Record, compare_models, load_walk, save_walk, summarise
from sb3_elmur.models import load_model
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.saved_statistics import as_in_training, find_statistics

FEWEST_BATCHES, MOST_ENVS = 5, 100  # what is lost if a stepped evaluation is interrupted is one batch


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="sb3-elmur evaluate",
        allow_abbrev=False,
        description="Evaluate saved models over many, and very long, episodes. Episode i is seeded with seed + i.",
    )
    parser.add_argument(
        "models", nargs="+", type=Path, metavar="model",
        help="zip file of RecurrentPPO, ours or sb3-contrib's, trained online or cloned; of several, such as those of several "
        "seeds, mean and standard error are shown, too",
    )  # fmt: skip
    parser.add_argument("--env", help="id of the environment; needed unless `--lengths` are given")
    parser.add_argument("--lengths", nargs="+", type=int, help="evaluate passive T-Maze corridors of all these step limits")
    parser.add_argument("--episodes", type=int, default=100, help="episodes (of each length; default: %(default)s)")
    parser.add_argument(
        "--n-envs", type=int,
        help=f"environments stepped together; after each batch the record is written (default: a {FEWEST_BATCHES}th of the "
        f"episodes, at most {MOST_ENVS})",
    )  # fmt: skip
    parser.add_argument("--stochastic", action="store_true", help="draw actions instead of taking the most probable ones")
    parser.add_argument(
        "-o", "--output", type=Path,
        help="JSON record, from which an interrupted evaluation continues; of several models a folder of records, 0.json, "
        "1.json and so on",
    )  # fmt: skip
    add_common_options(parser)
    return parser


@told_in_one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """
    Evaluate saved models, and print what was found.

    :param arguments: Command line; ``None`` means that of the process.
    """
    options = make_parser().parse_args(arguments)
    take_common_options(options)
    records = []
    for index, model in enumerate(options.models):
        single = len(options.models) == 1 or options.output is None
        records.append(evaluate(model, options.output if single else options.output / f"{index}.json", options))
        print(records[-1].table() if len(options.models) == 1 else f"{model}\n{records[-1].table()}")
    if len(records) > 1:
        print(compare_models(records))


def evaluate(path: Path, output: Path | None, options: argparse.Namespace) -> Record:
    """
    Evaluate a model as the options say.

    :param path: Its zip file.
    :param output: Where its record goes.
    :param options: Of :func:`make_parser`.
    :return: The finished record.
    :raises ValueError: If an option or a file does not fit.
    """
    check_options(options)
    model = load_model(path, options.device)
    statistics = find_statistics(path, model)
    n_envs = options.n_envs or min(MOST_ENVS, -(-options.episodes // FEWEST_BATCHES))
    settings = {
        "model_sha256": _sha256(path),
        "env": options.env,
        "env_kwargs": dict(options.env_kwargs),
        "lengths": options.lengths and sorted(options.lengths),
        "n_episodes": options.episodes,
        "seed": options.seed,
    }
    if statistics is not None:
        settings["vecnormalize_sha256"] = _sha256(statistics)
        print(f"Observations are normalised by {statistics}.")
    if options.stochastic:  # what is drawn depends on the batch, too
        settings |= {"stochastic": True, "n_envs": n_envs}
    record = Record(output, json.loads(json.dumps(settings)))
    if options.lengths:
        if statistics is not None:
            raise SettingsError(f"`--lengths` is for policies that see the T-Maze as it is. {path} has {statistics}.")
        if not isinstance(model.policy, ElmurPolicy):
            raise SettingsError(f"`--lengths` is for ElmurPolicy. {path} has {type(model.policy).__name__}.")
        evaluate_corridors(model.policy, options, record)
    else:
        env = as_in_training(make_batch(options.env, n_envs, dict(options.env_kwargs)), statistics)
        try:
            evaluate_episodes(model.policy, env, options, record)
        finally:
            env.close()
    return record


def check_options(options: argparse.Namespace) -> None:
    """
    Refuse options that contradict each other, or lie outside their range.

    :param options: Of :func:`make_parser`.
    :raises ValueError: If there are such.
    """
    check_count("episodes", options.episodes, 1)
    if options.n_envs is not None:
        check_count("n_envs", options.n_envs, 1)
    if options.lengths:
        if options.env_kwargs or options.n_envs or options.stochastic or not _is_passive_tmaze(options.env):
            raise SettingsError(
                "`--lengths` is for the passive T-Maze with the most probable actions, without `--env-kwargs` and `--n-envs`."
            )
    elif options.env is None:
        raise SettingsError("`--env` must be the id of an environment, unless `--lengths` are given. Received none.")


def _is_passive_tmaze(env_id: str | None) -> bool:
    """Whether corridors are what this environment has; so have those of no id."""
    if env_id is None:
        return True
    return creator_of(env_id) is TMazeEnv and not gymnasium.spec(env_id).kwargs


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def evaluate_corridors(policy: ElmurPolicy, options: argparse.Namespace, record: Record) -> None:
    """
    Evaluate corridors of several lengths, and record the success at each.

    :param policy: What is evaluated.
    :param options: Of :func:`make_parser`.
    :param record: Where results go.
    """
    path = record.walk_path
    if len(record.results) < len(options.lengths):
        corridors = _continued(policy, options, record)
        longest = corridors.lengths[-1]
        with tqdm(
            total=longest, initial=corridors.time, unit="step", unit_scale=True, disable=options.no_progress
        ) as progress_bar:
            while not corridors.finished:
                corridors.advance()
                progress_bar.update((longest if corridors.finished else corridors.time) - progress_bar.n)
                if corridors.finished or record.due():
                    _save(corridors, record)
    if path is not None:
        path.unlink(missing_ok=True)


def _continued(policy: ElmurPolicy, options: argparse.Namespace, record: Record) -> Corridors:
    """Corridors as far as an earlier call has walked them."""
    path, walk = record.walk_path, None
    if path is not None and path.exists():
        walk = load_walk(path, record.settings, policy.initial_memories(options.episodes).pi)
    return Corridors(policy, options.lengths, options.episodes, options.seed, walk)


def _save(corridors: Corridors, record: Record) -> None:
    """Record what is known of all lengths, and how far the agents have walked."""
    for length, successes in corridors.results.items():
        record.results[str(length)] = summarise({"is_success": successes})
    record.save(len(corridors.late) * corridors.time)
    if record.walk_path is not None:
        save_walk(record.walk_path, corridors.walk, record.settings)


def evaluate_episodes(policy: BasePolicy, env: VecEnv, options: argparse.Namespace, record: Record) -> None:
    """
    Evaluate episodes of any environment, batch by batch; what a last batch has too many is left out.

    :param policy: What is evaluated.
    :param env: The batch of environments.
    :param options: Of :func:`make_parser`.
    :param record: Where results go.
    """
    n_episodes = options.episodes
    with tqdm(
        total=n_episodes, initial=len(record.episodes), unit="episode", miniters=0, disable=options.no_progress
    ) as progress_bar:

        def progress(n_steps: int, n_ended: int) -> None:
            progress_bar.set_postfix_str(f"step {n_steps:,}", refresh=False)
            progress_bar.update(min(n_ended, n_episodes - progress_bar.n))

        while len(record.episodes) < n_episodes:
            seed = options.seed + len(record.episodes)
            if isinstance(env, MazeVecEnv) and isinstance(policy, ElmurPolicy) and not options.stochastic:
                batch = cross_episodes(policy, env, seed, progress)
            else:
                batch = run_episodes(policy, env, seed, progress, not options.stochastic)
            record.add_episodes(batch[: n_episodes - len(record.episodes)])

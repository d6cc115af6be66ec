"""The command line of behaviour cloning: options from YAML and arguments, a run folder, training, and the saved model."""

import argparse
import importlib
import itertools
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import distributed as dist

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.distributed import Group, join_group
from sb3_elmur.bc.trainer import BC, CHECKPOINT
from sb3_elmur.command_line import key_value
from sb3_elmur.core.config import check_count
from sb3_elmur.datasets.episodes import open_episodes
from sb3_elmur.datasets.normalizing import NormalizedEpisodes, fit_normalization
from sb3_elmur.models import STATISTICS_FILE as STATISTICS
from sb3_elmur.ppo import RecurrentPPO
from sb3_elmur.settings import read_settings as read_file_settings
from sb3_elmur.settings import with_classes

ALGORITHM = "bc_elmur"
COMMAND = ("python", "-m", "sb3_elmur.bc")
COMMAND_FILE = "command.txt"
MODEL_OPTIONS: dict[str, Any] = {
    "policy": "ElmurPolicy", "policy_kwargs": {}, "env_kwargs": {}, "n_eval_envs": 1, "normalize": False
}  # fmt: skip
ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError, gymnasium.error.Error)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Train a policy by behaviour cloning, and save it as a model of :class:`sb3_elmur.RecurrentPPO`.

    :param arguments: Command line; ``None`` means that of the process.
    """
    try:
        options, arguments = parse(sys.argv[1:] if arguments is None else arguments)
        for package in options.gym_packages:
            importlib.import_module(package)
        group, device = join_group(options.device)
        train(options, group, device, arguments)
    except ERRORS as error:
        sys.exit(f"error: {error}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """
    Parse the command line; with ``--continue RUN`` it is appended to the recorded one of that run.

    :param arguments: Command line.
    :return: The options, and the command line that says the same without ``--continue``.
    :raises ValueError: If there is no such run.
    """
    continuing = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    continuing.add_argument(
        "--continue", dest="run", type=Path, metavar="RUN",
        help="folder of an interrupted run to go on with; its options need not be repeated",
    )  # fmt: skip
    continued, rest = continuing.parse_known_args(arguments)
    if continued.run is not None:
        record = next(continued.run.glob(f"*/{COMMAND_FILE}"), None)
        if record is None:
            raise ValueError(f"`--continue` must be the folder of a run. Received '{continued.run}', without {COMMAND_FILE}.")
        rest = shlex.split(record.read_text())[len(COMMAND) :] + rest
    return make_parser(continuing).parse_args(rest, continued), rest


def make_parser(*parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The command line, with one option for each hyper-parameter of :class:`BCConfig`, and those of ``parents``."""
    parser = argparse.ArgumentParser(
        prog=" ".join(COMMAND),
        allow_abbrev=False,
        description="Train a policy by behaviour cloning. Hyper-parameters come from a YAML file, keyed by environment id or "
        "`default`; those given here replace them. Several GPUs or machines train together under `torchrun -m sb3_elmur.bc`.",
        parents=parents,
    )
    parser.add_argument("--env", required=True, help="id of the environment that the episodes are from")
    parser.add_argument("--data", required=True, help="folder of .npz episodes, or minari:<id>")
    parser.add_argument("--conf-file", type=Path, metavar="YAML", help="hyper-parameters (default: zoo_configs/bc_elmur.yml)")
    parser.add_argument(
        "-f", "--log-folder", type=Path, default=Path("logs"), metavar="FOLDER", help="where run folders go (default: logs)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    parser.add_argument("-tb", "--tensorboard-log", metavar="FOLDER", help="where TensorBoard logs go (default: nowhere)")
    parser.add_argument(
        "--gym-packages", nargs="+", default=[], metavar="PACKAGE", help="packages to import, that register environments"
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    hyper_parameters = parser.add_argument_group("hyper-parameters")
    hyper_parameters.add_argument("--policy", help="policy class (default: ElmurPolicy)")
    for name, what in (("policy_kwargs", "policy"), ("env_kwargs", "environments in which it is evaluated")):
        hyper_parameters.add_argument(
            _flag(name), nargs="+", type=key_value, metavar="KEY:VALUE", help=f"arguments of the {what}, values as in Python"
        )
    hyper_parameters.add_argument("--n-eval-envs", type=int, metavar="N", help="environments of an evaluation (default: 1)")
    documentation = dict(re.findall(r":param (\w+): ((?:.|\n)*?)(?=\n\s*:)", BCConfig.__doc__ or ""))
    hyper_parameters.add_argument(
        "--normalize", action=argparse.BooleanOptionalAction, default=None,
        help="normalise observations by the mean and variance of the data (default: False); a YAML file may hold arguments of "
        "VecNormalize instead of true",
    )  # fmt: skip
    for field in fields(BCConfig):
        text = " ".join(documentation[field.name].split()).rstrip(".").replace("%", "%%") + f" (default: {field.default})"
        text = text[0].lower() + text[1:]
        if isinstance(field.default, bool):
            hyper_parameters.add_argument(_flag(field.name), action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            kind = type(field.default)
            hyper_parameters.add_argument(_flag(field.name), type=kind, metavar="N" if kind is int else "X", help=text)
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def train(options: argparse.Namespace, group: Group, device: str, arguments: Sequence[str]) -> None:
    """
    Train as the options say.

    :param options: Of :func:`parse`.
    :param group: Processes that train together.
    :param device: This process's.
    :param arguments: The command line, to be recorded.
    :raises ValueError: If an option, a file or the environment does not fit.
    """
    first = group.rank == 0
    settings = read_settings(options)
    config = BCConfig(**{field.name: settings[field.name] for field in fields(BCConfig) if field.name in settings})
    env: VecEnv = make_vec_env(options.env, settings["n_eval_envs"], seed=options.seed, env_kwargs=settings["env_kwargs"])
    episodes = open_episodes(options.data, env.observation_space, env.action_space)
    if settings["normalize"]:
        env = fit_normalization(env, episodes, **({} if settings["normalize"] is True else settings["normalize"]))
        episodes = NormalizedEpisodes(episodes, env)
    model = RecurrentPPO(
        settings["policy"], env, policy_kwargs=with_classes(settings["policy_kwargs"]), seed=options.seed, device=device,
        tensorboard_log=options.tensorboard_log, verbose=int(first),
    )  # fmt: skip
    trainer = BC(model, episodes, config, eval_env=env)
    name = options.env.replace("/", "-")
    folder = group.from_first(lambda: options.run or new_run_folder(options.log_folder / ALGORITHM, name))
    if first:
        print(f"{len(episodes)} episodes, {int(episodes.lengths.sum())} steps. Run folder: {folder}")
        if not (folder / CHECKPOINT).exists():
            record(folder / name, settings, vars(options), arguments)
            if isinstance(env, VecNormalize):
                with atomic_path(folder / name / STATISTICS) as temporary:
                    env.save(str(temporary))
    try:
        trainer.train(folder, progress_bar=not options.no_progress)
    except KeyboardInterrupt:
        sys.exit(f"Interrupted. To go on: {shlex.join((*COMMAND, '--continue', str(folder)))}" if first else 1)
    if first:
        trainer.save(folder / f"{name}.zip")
        print(f"Saved {folder / name}.zip")


def read_settings(options: argparse.Namespace) -> dict[str, Any]:
    """
    Hyper-parameters of the environment: those of the file, then those of the command line.

    :param options: Of :func:`parse`.
    :raises ValueError: If the file has none for the environment, or one that does not exist or is of the wrong kind.
    """
    path = options.conf_file or "bc_elmur.yml"
    found = read_file_settings(path, options.env)
    known = [*MODEL_OPTIONS, *(field.name for field in fields(BCConfig))]
    if unknown := [name for name in found if name not in known]:
        raise ValueError(f"{path} has the unknown hyper-parameter {unknown[0]!r}. Known are {', '.join(known)}.")
    settings = MODEL_OPTIONS | found
    for name in known:
        given = getattr(options, name)
        if name.endswith("_kwargs"):
            if not isinstance(settings[name], dict):
                raise ValueError(f"`{name}` must map arguments to values. Received {settings[name]!r}.")
            settings[name] = settings[name] | dict(given or ())
        elif given is True and isinstance(settings.get(name), dict):
            continue  # `--normalize` keeps the arguments of the file
        elif given is not None:
            settings[name] = given
    check_count("n_eval_envs", settings["n_eval_envs"], 1)
    if not isinstance(settings["normalize"], bool | dict):
        raise ValueError(f"`normalize` must be true, false, or arguments of VecNormalize. Received {settings['normalize']!r}.")
    return settings


def new_run_folder(parent: Path, name: str) -> Path:
    """Make the first of ``<name>_1``, ``<name>_2``, ... that is not there yet."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = parent / f"{name}_{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        break
    return folder


def record(folder: Path, settings: dict[str, Any], options: dict[str, Any], arguments: Sequence[str]) -> None:
    """Save hyper-parameters, arguments and command as rl_zoo3 does: ``config.yml``, ``args.yml``, ``command.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    texts = {
        "config.yml": yaml.safe_dump(settings),
        "args.yml": yaml.safe_dump(plain),
        COMMAND_FILE: shlex.join([*COMMAND, *arguments]) + "\n",
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text)

"""The command line of behaviour cloning: options from YAML and arguments, a run folder, training, and the saved model."""

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import gymnasium
import yaml
from stable_baselines3.common.env_util import make_vec_env
from torch import distributed as dist

from sb3_elmur.bc import BC, CHECKPOINT
from sb3_elmur.bc_config import BCConfig
from sb3_elmur.datasets import open_episodes
from sb3_elmur.distributed import Group, join_group
from sb3_elmur.files import atomic_path
from sb3_elmur.options import key_value
from sb3_elmur.ppo import RecurrentPPO

ALGORITHM = "bc_elmur"
MODEL_OPTIONS = ("policy", "policy_kwargs", "env_kwargs", "n_eval_envs")


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Train a policy by behaviour cloning, and save it as a model of :class:`sb3_elmur.RecurrentPPO`.

    :param arguments: Command line; ``None`` means that of the process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = make_parser().parse_args(arguments)
    for package in options.gym_packages:
        importlib.import_module(package)
    try:
        group, device = join_group(options.device)
        train(options, group, device, arguments)
    except (ValueError, TypeError, FileNotFoundError, gymnasium.error.Error) as error:
        sys.exit(f"error: {error}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def make_parser() -> argparse.ArgumentParser:
    """The command line, with one option for each hyper-parameter of :class:`BCConfig`."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_elmur.bc",
        description="Train a policy by behaviour cloning. Hyper-parameters come from the YAML file, keyed by environment id "
        "or `default`; those on the command line come first. Runs on several GPUs or machines by `torchrun`.",
    )
    parser.add_argument("--env", required=True, help="id of the environment, whose spaces and rewards count")
    parser.add_argument("--data", required=True, help="folder of .npz episodes, or minari:<id>")
    parser.add_argument("--conf-file", type=Path, help="YAML of hyper-parameters (zoo_configs/bc_elmur.yml)")
    parser.add_argument("-f", "--log-folder", type=Path, default=Path("logs"))
    parser.add_argument("--continue", dest="resume", type=Path, metavar="RUN", help="run folder of an interrupted training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("-tb", "--tensorboard-log", default=None, help="folder of TensorBoard logs")
    parser.add_argument("--gym-packages", nargs="*", default=[], help="packages to import, that register environments")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.add_argument("--policy", help="policy class")
    for name in ("policy_kwargs", "env_kwargs"):
        flag, example = f"--{name.replace('_', '-')}", "key:value pairs, values as in Python"
        parser.add_argument(flag, dest=name, nargs="+", type=key_value, metavar="KEY:VALUE", help=example)
    parser.add_argument("--n-eval-envs", type=int, help="environments of the evaluation")
    documentation = dict(re.findall(r":param (\w+): ((?:.|\n)*?)(?=\n\s*:)", BCConfig.__doc__ or ""))
    hyper_parameters = parser.add_argument_group("hyper-parameters")
    for field in fields(BCConfig):
        text = f"{' '.join(documentation[field.name].split())} (default {field.default})".replace("%", "%%")
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            hyper_parameters.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            hyper_parameters.add_argument(flag, type=type(field.default), help=text)
    return parser


def train(options: argparse.Namespace, group: Group, device: str, arguments: Sequence[str]) -> None:
    """
    Train as the options say.

    :param options: Of :func:`make_parser`.
    :param group: Processes that train together.
    :param device: This process's.
    :param arguments: The command line, to be recorded.
    :raises ValueError: If an option, a file or the environment does not fit.
    """
    settings = read_settings(options)
    config = BCConfig(**{field.name: settings[field.name] for field in fields(BCConfig) if field.name in settings})
    folder = options.resume or new_run_folder(options.log_folder / ALGORITHM, options.env)
    env = make_vec_env(options.env, settings["n_eval_envs"], seed=options.seed, env_kwargs=settings["env_kwargs"])
    model = RecurrentPPO(
        settings["policy"], env, policy_kwargs=settings["policy_kwargs"], seed=options.seed, device=device,
        tensorboard_log=options.tensorboard_log, verbose=1,
    )  # fmt: skip
    episodes = open_episodes(options.data, env.observation_space, env.action_space)
    trainer = BC(model, episodes, config, eval_env=env)
    if group.rank == 0:
        record(folder / options.env, settings, vars(options), arguments)
        print(f"{len(episodes)} episodes, {int(episodes.lengths.sum())} steps. Run folder: {folder}")
    trainer.train(folder, progress_bar=not options.no_progress)
    if group.rank == 0:
        trainer.save(folder / f"{options.env}.zip")
        print(f"Saved {folder / options.env}.zip")


def read_settings(options: argparse.Namespace) -> dict[str, Any]:
    """
    Hyper-parameters of the environment: those of the file, then those of the command line.

    :param options: Of :func:`make_parser`.
    :raises ValueError: If the file has none for the environment, or one that does not exist.
    """
    path = options.conf_file or files("sb3_elmur.zoo_configs").joinpath("bc_elmur.yml")
    by_environment = yaml.safe_load(path.read_text())
    if options.env not in by_environment and "default" not in by_environment:
        raise ValueError(f"{path} has no hyper-parameters for {options.env!r}. It has: {', '.join(by_environment)}.")
    settings = {"policy": "ElmurPolicy", "policy_kwargs": {}, "env_kwargs": {}, "n_eval_envs": 1}
    settings |= by_environment.get(options.env, by_environment.get("default"))
    known = {*MODEL_OPTIONS, *(field.name for field in fields(BCConfig))}
    if unknown := set(settings) - known:
        raise ValueError(f"{path} has the unknown hyper-parameter {min(unknown)!r}. Known: {', '.join(sorted(known))}.")
    for name in known:
        given = getattr(options, name)
        if given is not None:
            settings[name] = {**settings[name], **dict(given)} if name.endswith("_kwargs") else given
    return settings


def new_run_folder(parent: Path, env_id: str) -> Path:
    """Path of the next run, ``<env>_1``, ``<env>_2``, ..., as rl_zoo3 counts them."""
    numbers = [int(path.name.rsplit("_", 1)[1]) for path in parent.glob(f"{env_id}_[0-9]*") if (path / env_id).exists()]
    return parent / f"{env_id}_{max(numbers, default=0) + 1}"


def record(folder: Path, settings: dict[str, Any], options: dict[str, Any], arguments: Sequence[str]) -> None:
    """Save hyper-parameters, arguments and command as rl_zoo3 does: ``config.yml``, ``args.yml``, ``command.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    texts = {
        "config.yml": yaml.safe_dump(settings),
        "args.yml": yaml.safe_dump(plain),
        "command.txt": shlex.join(["python", "-m", "sb3_elmur.bc", *arguments]) + "\n",
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text)

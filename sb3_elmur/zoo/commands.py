"""
The commands of rl_zoo3 with this package in them.

Each registers ``ppo_elmur``, finds the packaged settings, and hands over to the zoo's own module in the same interpreter. What
a user gives comes after what is added here, and so replaces it.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from importlib.resources import files
from typing import Any

import gymnasium
import yaml
from gymnasium.envs.registration import load_env_creator
from gymnasium.error import DependencyNotInstalled

from sb3_elmur.command_line import SettingsError
from sb3_elmur.ppo import RecurrentPPO
from sb3_elmur.zoo.checks import refuses
from sb3_elmur.zoo.search import convert_ppo_elmur_params, sample_ppo_elmur_params

ALGORITHM = "ppo_elmur"
LOG_FOLDER = "logs"  # where the zoo's `train` writes; its other commands look elsewhere
PLOTS = {
    "train": ("plot_train", ["-a", ALGORITHM, "-f", LOG_FOLDER]),
    "all": ("all_plots", ["-a", ALGORITHM, "-f", LOG_FOLDER]),
    "from-file": ("plot_from_file", []),
}


def train(arguments: Sequence[str]) -> None:
    """
    Train as ``python -m rl_zoo3.train`` does.

    :param arguments: Command line of ``rl_zoo3.train``. ``--algo`` is ``ppo_elmur`` if not given, and ``--conf-file`` the
        packaged file of the algorithm if that has the environment's settings.
    """
    _hand_over("train", [*_settings_file(arguments), *arguments])


def tune(arguments: Sequence[str]) -> None:
    """
    Search hyper-parameters as ``python -m rl_zoo3.train -optimize`` does.

    :param arguments: As for :func:`train`.
    """
    _hand_over("train", ["-optimize", *_settings_file(arguments), *arguments], "tune")


def enjoy(arguments: Sequence[str]) -> None:
    """
    Watch a trained agent as ``python -m rl_zoo3.enjoy`` does, without a window if the environment has none.

    :param arguments: Command line of ``rl_zoo3.enjoy``; the folder is ``logs`` if not given.
    """
    register()
    env_id = _given(arguments).env
    hidden = env_id in gymnasium.registry and "human" not in _render_modes(env_id)
    _hand_over("enjoy", ["-f", LOG_FOLDER, *["--no-render"] * hidden, *arguments])


def _render_modes(env_id: str) -> Sequence[str]:
    """What an environment can render; it is only built where its class is not known."""
    entry_point = gymnasium.spec(env_id).entry_point
    creator: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    if not hasattr(creator, "metadata"):
        creator = gymnasium.make(env_id)
        creator.close()
    return creator.metadata.get("render_modes", ())


def record_video(arguments: Sequence[str]) -> None:
    """
    Record a trained agent as ``python -m rl_zoo3.record_video`` does, with its memory below the frames.

    :param arguments: Its command line; the folder is ``logs`` if not given.
    """
    register()
    shown = _given(arguments).algo == ALGORITHM
    with import_module("sb3_elmur.zoo.video").memory_shown(ALGORITHM) if shown else nullcontext():
        _run("record_video", ["-f", LOG_FOLDER, *arguments])


def load_from_hub(arguments: Sequence[str]) -> None:
    """
    Download a trained agent as ``python -m rl_zoo3.load_from_hub`` does.

    :param arguments: Its command line; the folder is ``logs`` if not given.
    """
    _hand_over("load_from_hub", ["-f", LOG_FOLDER, *arguments])


def push_to_hub(arguments: Sequence[str]) -> None:
    """
    Upload a trained agent as ``python -m rl_zoo3.push_to_hub`` does; its model card names the commands of this package.

    :param arguments: Its command line; the folder is ``logs`` if not given.
    """
    register()
    import_module("sb3_elmur.zoo.hub").adapt()
    _hand_over("push_to_hub", ["-f", LOG_FOLDER, *arguments])


def plot(arguments: Sequence[str]) -> None:
    """
    Plot runs by one of ``rl_zoo3.plots``.

    :param arguments: ``train``, ``all`` or ``from-file``, and the command line of that module.
    """
    parser = argparse.ArgumentParser(prog="sb3-elmur plot")
    parser.add_argument("kind", choices=PLOTS, help="plot_train, all_plots or plot_from_file of rl_zoo3.plots")
    kind = parser.parse_args(arguments[:1]).kind
    name, defaults = PLOTS[kind]
    sys.argv = [f"sb3-elmur plot {kind}", *defaults, *arguments[1:]]
    getattr(_import_zoo("rl_zoo3.plots"), name)()


def register() -> None:
    """
    Make ``ppo_elmur`` one of the zoo's algorithms, with its search space, and settings checked before training.

    :raises DependencyNotInstalled: If rl_zoo3, or what it needs, is missing.
    """
    manager = _import_zoo("rl_zoo3.exp_manager")
    _import_zoo("requests")  # which rl_zoo3 does not declare
    manager.ALGOS[ALGORITHM] = RecurrentPPO
    manager.HYPERPARAMS_SAMPLER[ALGORITHM] = sample_ppo_elmur_params
    manager.HYPERPARAMS_CONVERTER[ALGORITHM] = convert_ppo_elmur_params
    manager.ExperimentManager = import_module("sb3_elmur.zoo.manager").CheckedExperimentManager


def _import_zoo(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise DependencyNotInstalled(f'{error.name} is missing: run `pip install "sb3-elmur[zoo]"`.') from error


def _hand_over(module: str, arguments: Sequence[str], command: str | None = None) -> None:
    """Register ``ppo_elmur``, and :func:`_run`."""
    register()
    _run(module, arguments, command)


def _run(module: str, arguments: Sequence[str], command: str | None = None) -> None:
    """
    Run a module of rl_zoo3 as the program, under the command line ``arguments``.

    :raises SettingsError: If it refuses what the user asks for.
    """
    sys.argv = [f"sb3-elmur {command or module.replace('_', '-')}", "--algo", ALGORITHM, *arguments]
    try:
        runpy.run_module(f"rl_zoo3.{module}", run_name="__main__")
    except (ValueError, AssertionError) as error:
        if isinstance(error, SettingsError) or not refuses(error, ["rl_zoo3"]):
            raise
        raise SettingsError(str(error)) from error


def _given(arguments: Sequence[str]) -> argparse.Namespace:
    """The algorithm and the environment that a command line names, or else the defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algo", default=ALGORITHM)
    parser.add_argument("--env", default="CartPole-v1")
    return parser.parse_known_args(arguments)[0]


def _settings_file(arguments: Sequence[str]) -> list[str]:
    """The option that names the packaged settings, unless they are only of other environments and the zoo has its own."""
    given = _given(arguments)
    ours = files("sb3_elmur.zoo_configs").joinpath(f"{given.algo}.yml")
    serves = ours.is_file() and (given.algo == ALGORITHM or given.env in yaml.safe_load(ours.read_text()))
    return ["--conf-file", str(ours)] if serves else []

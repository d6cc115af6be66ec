"""
The commands of rl_zoo3 with this package in them.

Each registers ``ppo_elmur``, finds the packaged settings, and hands over to the zoo's own module in the same interpreter. What
a user gives comes after what is added here, and so replaces it.
"""

import argparse
import ast
import difflib
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import gymnasium
from gymnasium.error import DependencyNotInstalled

from sb3_elmur.command_line import (
    SettingsError,
    check_device,
    check_seed,
    import_packages,
    key_value,
    told_in_one_line,
)
from sb3_elmur.distributed import current_group
from sb3_elmur.envs.batch import creator_of
from sb3_elmur.extras import require
from sb3_elmur.ppo import RecurrentPPO
from sb3_elmur.settings import packaged, read_file
from sb3_elmur.zoo.joint import joined
from sb3_elmur.zoo.search import convert_ppo_elmur_params, sample_ppo_elmur_params

ALGORITHM = "ppo_elmur"
LOG_FOLDER = "logs"  # where the zoo's `train` writes; its other commands look elsewhere
PAIRS = ("--env-kwargs", "--eval-env-kwargs", "-params", "--hyperparams")  # options of key:value
COUNTS = (("--eval-episodes",), ("--n-eval-envs",), ("--n-trials",), ("--n-evaluations",))
OPTIONAL_COUNTS = (("-n", "--n-timesteps"), ("--log-interval",), ("--eval-freq",), ("--save-freq",), ("--num-threads",))
PLOTS = {
    "train": ("plot_train", ["-a", ALGORITHM, "-f", LOG_FOLDER]),
    "all": ("all_plots", ["-a", ALGORITHM, "-f", LOG_FOLDER]),
    "from-file": ("plot_from_file", []),
}

command = partial(told_in_one_line, mistakes=(SettingsError, DependencyNotInstalled))
"""Other errors than these keep their traceback, for training runs code of the user's."""


@command
def train(arguments: Sequence[str]) -> None:
    """
    Train as ``python -m rl_zoo3.train`` does. Processes that ``torchrun`` has started train one agent together.

    :param arguments: Command line of ``rl_zoo3.train``, or ``--continue`` and the folder of an interrupted run, whose options
        need not be repeated but for ``--gym-packages``. ``--algo`` is ``ppo_elmur`` if not given, and ``--conf-file`` the
        packaged file of the algorithm, unless the zoo's own is the only one with settings of the environment.
    """
    options = _start(arguments)
    with joined(options.device) as device:
        _train("train", arguments, options, device)


@command
def tune(arguments: Sequence[str]) -> None:
    """
    Search hyper-parameters as ``python -m rl_zoo3.train -optimize`` does.

    :param arguments: As for :func:`train`.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise SettingsError("`sb3-elmur tune` trains in one process: start it without torchrun, several times if you like.")
    arguments = ["-optimize", *arguments]
    options = _start(arguments)
    _train("tune", arguments, options, options.device)


def _train(name: str, arguments: Sequence[str], options: argparse.Namespace, device: str) -> None:
    """
    Train, search or continue, as the arguments say.

    :raises SettingsError: If the environment is unknown, or the trained agent is not there.
    """
    from sb3_elmur.zoo import resuming, runs

    if options.run is not None:
        _check_alone(arguments)
        recorded, settings = current_group().from_first(lambda: resuming.find_run(options.run))
        _check_registered(recorded.env)
        if options.device_given or (current_group().size > 1 and recorded.device != "cpu"):
            recorded.device = device
        return resuming.continue_run(options.run, recorded, settings)
    if options.wanted:
        _check_registered(options.env)
        runs.check_trained_agent(options.trained_agent)
    own = arguments if current_group().rank == 0 else [argument for argument in arguments if argument != "--track"]
    _run("train", [*_settings_file(options), *own, "--device", device], name)


def _check_alone(arguments: Sequence[str]) -> None:
    """
    Refuse what would be ignored beside ``--continue``.

    :raises SettingsError: If there is such an option.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--continue")
    parser.add_argument("--device")
    parser.add_argument("--gym-packages", nargs="+")
    if ignored := parser.parse_known_args(arguments)[1]:
        raise SettingsError(
            "`--continue` goes on with the options of the run: beside it there may be `--gym-packages` and `--device`. "
            f"Received {' '.join(ignored)}."
        )


@command
def enjoy(arguments: Sequence[str]) -> None:
    """
    Watch a trained agent as ``python -m rl_zoo3.enjoy`` does, without a window if the environment has none.

    :param arguments: Command line of ``rl_zoo3.enjoy``; the folder is ``logs`` if not given.
    """
    options = _start(arguments)
    hidden = options.env in gymnasium.registry and "human" not in _render_modes(options.env)
    _show("enjoy", options, [*["--no-render"] * hidden, *arguments])


def _render_modes(env_id: str) -> Sequence[str]:
    """What an environment can render; it is only built where its class is not known."""
    creator = creator_of(env_id)
    if not hasattr(creator, "metadata"):
        creator = gymnasium.make(env_id)
        creator.close()
    return creator.metadata.get("render_modes", ())


@command
def record_video(arguments: Sequence[str]) -> None:
    """
    Record a trained agent as ``python -m rl_zoo3.record_video`` does, with its memory below the frames.

    :param arguments: Its command line, and ``--gym-packages``; the folder is ``logs`` if not given.
    """
    options = _start(arguments)
    _show("record_video", options, _without_packages(arguments))


@command
def push_to_hub(arguments: Sequence[str]) -> None:
    """
    Upload a trained agent as ``python -m rl_zoo3.push_to_hub`` does; its model card names the commands of this package.

    :param arguments: Its command line, and ``--gym-packages``; the folder is ``logs`` if not given.
    """
    options = _start(arguments)
    from sb3_elmur.zoo import hub

    hub.adapt()
    _show("push_to_hub", options, _without_packages(arguments))


def _show(module: str, options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Run a module of the zoo that takes a trained agent, which has the statistics that belong to it by name."""
    from sb3_elmur.zoo import checks, manager, masks, runs, video

    with ExitStack() as stack:
        if options.wanted:
            _check_registered(options.env)
            with manager.told(ValueError):
                checks.check_env_arguments(options.env, dict(options.env_kwargs))
            model = runs.find_model(options)
            settings, _ = runs.check_run(model.parent / options.env.replace("/", "-"))
            if module == "record_video" and options.algo == ALGORITHM:
                stack.enter_context(video.memory_shown(ALGORITHM))
            stack.enter_context(runs.statistics_of(model, settings))
            if module != "push_to_hub" and options.algo == ALGORITHM:
                stack.enter_context(masks.masks_taken(ALGORITHM))
        _run(module, ["-f", LOG_FOLDER, *arguments])


@command
def load_from_hub(arguments: Sequence[str]) -> None:
    """
    Download a trained agent as ``python -m rl_zoo3.load_from_hub`` does.

    :param arguments: Its command line; the folder is ``logs`` if not given.
    """
    register()
    _run("load_from_hub", ["-f", LOG_FOLDER, *arguments])


@command
def plot(arguments: Sequence[str]) -> None:
    """
    Plot runs by one of ``rl_zoo3.plots``. Where there is no display, figures become files in the current folder.

    :param arguments: ``train``, ``all`` or ``from-file``, and the command line of that module.
    """
    parser = argparse.ArgumentParser(prog="sb3-elmur plot")
    parser.add_argument("kind", choices=PLOTS, help="plot_train, all_plots or plot_from_file of rl_zoo3.plots")
    kind = parser.parse_args(arguments[:1]).kind
    name, defaults = PLOTS[kind]
    sys.argv = [f"sb3-elmur plot {kind}", *defaults, *arguments[1:]]
    draw: Callable[[], None] = getattr(require("rl_zoo3.plots", "zoo"), name)
    from matplotlib import pyplot as plt

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
        try:
            draw()
        except OSError as error:
            raise SettingsError(str(error)) from error
    if plt.get_backend().lower() == "agg":
        for number in plt.get_fignums():
            path = Path(f"plot_{kind}_{number}.png")
            plt.figure(number).savefig(path)
            print(f"There is no display: saved {path}")
    plt.close("all")


def register() -> None:
    """
    Make ``ppo_elmur`` one of the zoo's algorithms, with its search space, and settings checked before training.

    :raises DependencyNotInstalled: If rl_zoo3, or what it needs, is missing.
    """
    manager = require("rl_zoo3.exp_manager", "zoo")
    require("requests", "zoo")  # which rl_zoo3 does not declare
    manager.ALGOS[ALGORITHM] = RecurrentPPO
    manager.HYPERPARAMS_SAMPLER[ALGORITHM] = sample_ppo_elmur_params
    manager.HYPERPARAMS_CONVERTER[ALGORITHM] = convert_ppo_elmur_params
    from sb3_elmur.zoo import masks
    from sb3_elmur.zoo.manager import CheckedExperimentManager

    manager.EvalCallback, manager.TrialEvalCallback = masks.MaskableEvalCallback, masks.MaskableTrialEvalCallback
    manager.ExperimentManager = CheckedExperimentManager


def _start(arguments: Sequence[str]) -> argparse.Namespace:
    """Register ``ppo_elmur``, and what the user's packages register; return what the command line says of the agent."""
    register()
    parser = argparse.ArgumentParser(prog="sb3-elmur", add_help=False, allow_abbrev=False)
    parser.add_argument("--algo", default=ALGORITHM)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("-f", "--folder", "--log-folder", default=LOG_FOLDER)
    parser.add_argument("--exp-id", type=int, default=0)
    parser.add_argument("--load-best", action="store_true")
    parser.add_argument("--load-checkpoint", type=int)
    parser.add_argument("--load-last-checkpoint", action="store_true")
    parser.add_argument("-i", "--trained-agent", default="")
    parser.add_argument("--continue", dest="run", type=Path)
    parser.add_argument("--gym-packages", nargs="+", default=[])
    parser.add_argument("--env-kwargs", nargs="+", type=key_value, default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("-h", "--help", dest="wanted", action="store_false")
    for names in (*COUNTS, *OPTIONAL_COUNTS):
        parser.add_argument(*names, type=int, default=1)
    options = parser.parse_known_args(arguments)[0]
    options.device_given, options.device = options.device is not None, options.device or "auto"
    for *_, name in (*COUNTS, *OPTIONAL_COUNTS):
        number, or_none = getattr(options, name.strip("-").replace("-", "_")), (name,) not in COUNTS
        if number < 1 and not (or_none and number == -1):
            raise SettingsError(f"`{name}` must be at least 1{', or -1' * or_none}. Received {number}.")
    import_packages(options.gym_packages)
    check_device(options.device)
    check_seed(max(0, options.seed))  # with a negative one rl_zoo3 draws its own
    return options


def _without_packages(arguments: Sequence[str]) -> list[str]:
    """Without ``--gym-packages``, which some of the zoo's commands do not know."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gym-packages", nargs="+")
    return parser.parse_known_args(arguments)[1]


def _check_registered(env_id: str) -> None:
    """
    Refuse an id that no package has registered.

    :raises SettingsError: If there is no such environment.
    """
    if env_id not in gymnasium.registry:
        similar = difflib.get_close_matches(env_id, gymnasium.registry, n=1)
        cure = f"Is it {similar[0]}? " if similar else ""
        raise SettingsError(
            f"`--env` must be a registered id. Received {env_id!r}. {cure}Environments of your own are registered by the "
            "packages that you name in `--gym-packages`."
        )


def _settings_file(options: argparse.Namespace) -> list[str]:
    """The option that names the packaged settings, unless the zoo's own alone has those of the environment."""
    ours = packaged(f"{options.algo}.yml")
    if not ours.is_file():
        return []
    theirs = Path(require("rl_zoo3", "zoo").__file__).parent / "hyperparams" / ours.name
    if options.env not in read_file(ours) and theirs.is_file() and options.env in read_file(theirs):
        return []
    return ["--conf-file", str(ours)]


def _quoted(arguments: Sequence[str]) -> list[str]:
    """Words among the values of settings in quotes, which the zoo would look up as names of variables."""
    quoted, option = [], ""
    for argument in _separated(arguments):
        option = argument if argument.startswith("-") else option
        key, colon, value = argument.partition(":")
        if option in PAIRS and argument != option and not colon:
            raise SettingsError(f"`{option}` must be KEY:VALUE. Received {argument!r}.")
        quoted.append(f"{key}:{value!r}" if option in PAIRS and colon and _is_text(value) else argument)
    return quoted


def _separated(arguments: Sequence[str]) -> list[str]:
    """With options of pairs apart from a value that ``=`` joins to them."""
    separated = []
    for argument in arguments:
        option, joined, value = argument.partition("=")
        separated += [option, value] if joined and option in PAIRS else [argument]
    return separated


def _is_text(value: str) -> bool:
    """Whether a value is no Python, or names variables outside of a call, such as ``dict(...)``."""
    try:
        kinds = {type(node) for node in ast.walk(ast.parse(value.strip(), mode="eval"))}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    return ast.Name in kinds and ast.Call not in kinds


def _run(module: str, arguments: Sequence[str], name: str | None = None) -> None:
    """Run a module of rl_zoo3 as the program, under the command line ``arguments``."""
    sys.argv = [f"sb3-elmur {name or module.replace('_', '-')}", "--algo", ALGORITHM, *_quoted(arguments)]
    runpy.run_module(f"rl_zoo3.{module}", run_name="__main__")

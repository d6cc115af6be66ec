"""The options of the command: hyper-parameters in a YAML file are the defaults of those on the command line."""

import argparse
import contextlib
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.runs import PROGRAM, recorded_arguments, unfinished_run
from sb3_elmur.command_line import SettingsError, key_value
from sb3_elmur.core.arguments import check_count
from sb3_elmur.settings import check_known, check_normalization, read_settings

CONF_FILE = "bc_elmur.yml"  # of the package
PAIRS = ("policy_kwargs", "env_kwargs", "normalize_kwargs")


def _read_pairs(texts: Sequence[str]) -> dict[str, Any]:
    try:
        return dict(map(key_value, texts))
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from error


Pairs = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*", metavar="KEY:VALUE ...", instance_from_str=_read_pairs,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda pairs: [f"{key}:{value}" for key, value in pairs.items()],
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """
    Hyper-parameters of an environment. Those given here replace those of the YAML file.

    :param policy: Policy class.
    :param policy_kwargs: Arguments of the policy, values as in Python.
    :param env_kwargs: Arguments of the environments in which it is evaluated, values as in Python.
    :param n_eval_envs: Environments of an evaluation.
    :param normalize: Whether to normalise observations by the mean and variance of the data.
    :param normalize_kwargs: Arguments of VecNormalize, values as in Python.
    :param shrink_memory: Whether to halve memory_size after the training and train on, as long as the loss on held-out
        episodes (validation) stays as small. It ends with the number of slots that the task needs.
    :param training: Hyper-parameters of the training.
    """

    policy: str = "ElmurPolicy"
    policy_kwargs: Pairs = field(default_factory=dict)
    env_kwargs: Pairs = field(default_factory=dict)
    n_eval_envs: Annotated[int, arg(metavar="N")] = 1
    normalize: bool = False
    normalize_kwargs: Pairs = field(default_factory=dict)
    shrink_memory: bool = False
    training: OmitArgPrefixes[BCConfig] = field(default_factory=BCConfig)

    def __post_init__(self) -> None:
        if not isinstance(self.policy, str):
            raise ValueError(f"`policy` must be the name of a policy class. Received {self.policy!r}.")
        for name in PAIRS:
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"`{name}` must map arguments to values. Received {getattr(self, name)!r}.")
        check_normalization(self.normalize_kwargs)
        check_count("n_eval_envs", self.n_eval_envs, 1)
        if not isinstance(self.normalize, bool):
            raise ValueError(f"`normalize` must be true, false, or arguments of VecNormalize. Received {self.normalize!r}.")
        if not isinstance(self.shrink_memory, bool):
            raise ValueError(f"`shrink_memory` must be true or false. Received {self.shrink_memory!r}.")

    def as_dict(self) -> dict[str, Any]:
        """All hyper-parameters by name, as in a YAML file."""
        settings = dataclasses.asdict(self)
        return settings | settings.pop("training")


@dataclass(frozen=True)
class Options:
    """
    Train a policy by behaviour cloning, and save it as a model of sb3_elmur.RecurrentPPO.

    Hyper-parameters come from a YAML file, keyed by environment id or "default". With --env, this help shows them. Several
    GPUs or machines train together under "torchrun -m sb3_elmur.bc".

    :param env: Id of the environment that the episodes are from.
    :param data: Folder of .npz episodes, or minari:<id>.
    :param conf_file: Hyper-parameters; by default those of the package, zoo_configs/bc_elmur.yml.
    :param log_folder: Where run folders go.
    :param run: Folder of an interrupted run to go on with; its options need not be repeated. Without a folder: the newest
        unfinished run of the same command, or a new one.
    :param seed: Seed of everything random.
    :param device: auto, cpu, cuda, ...
    :param tensorboard_log: Where TensorBoard logs go.
    :param gym_packages: Packages to import, that register environments; the current folder is searched, too.
    :param monitor: Log what the memory does, after every epoch, and warn of failures.
    :param no_progress: Show no progress bar.
    :param settings: Hyper-parameters.
    """

    env: Annotated[str, arg(metavar="ID")]
    data: Annotated[str, arg(metavar="FOLDER")]
    conf_file: Annotated[Path | None, arg(metavar="YAML")] = None
    log_folder: Annotated[Path, arg(aliases=["-f"], metavar="FOLDER")] = Path("logs")
    run: Annotated[Path | None, arg(name="continue", metavar="[RUN]")] = None
    seed: Annotated[int, arg(metavar="N")] = 0
    device: str = "auto"
    tensorboard_log: Annotated[str | None, arg(aliases=["-tb"], metavar="FOLDER")] = None
    gym_packages: Annotated[tuple[str, ...], arg(metavar="PACKAGE ...")] = ()
    monitor: FlagCreatePairsOff[bool] = False
    no_progress: FlagCreatePairsOff[bool] = False
    settings: OmitArgPrefixes[Settings] = field(default_factory=Settings)


class Command(NamedTuple):
    """
    What a command line says.

    :param options: All options.
    :param arguments: The command line that says the same without ``--continue``, to be recorded.
    """

    options: Options
    arguments: list[str]


def parse(arguments: Sequence[str]) -> Command:
    """
    Parse the command line; with ``--continue RUN`` it is appended to the recorded one of that run.

    :param arguments: Command line.
    :return: Its options.
    :raises SettingsError: If there is no such run, or an option is unknown or has a wrong value.
    :raises ValueError: If a file of hyper-parameters has a mistake.
    """
    folder, arguments = _value_of(["--continue"], arguments, nargs="?", const="")
    if folder:
        recorded = recorded_arguments(Path(folder))
        _refuse_imports(*(_parse(words, Options(env="", data="")) for words in (recorded, arguments)))
        arguments = recorded + arguments
    env, _ = _value_of(["--env"], arguments)
    conf_file, _ = _value_of(["--conf-file", "--conf_file"], arguments)
    settings = Settings()
    if env is not None:
        file = Path(conf_file) if conf_file else CONF_FILE
        settings = make_settings(read_settings(file, env), str(file))
    options = _parse(arguments, Options(env=tyro.MISSING, data=tyro.MISSING, settings=settings))
    if options.settings.normalize_kwargs != settings.normalize_kwargs and not options.settings.normalize:
        raise SettingsError(f"`--normalize-kwargs` needs `--normalize`. Received {options.settings.normalize_kwargs!r} alone.")
    merged = {name: getattr(settings, name) | getattr(options.settings, name) for name in PAIRS}
    run = Path(folder) if folder else None
    if folder == "":
        run = unfinished_run(options.log_folder, options.env, arguments)
    options = dataclasses.replace(options, run=run, settings=dataclasses.replace(options.settings, **merged))
    return Command(options, arguments)


def _value_of(names: Sequence[str], arguments: Sequence[str], **how: Any) -> tuple[str | None, list[str]]:
    """The value of an option that others depend on, and the other arguments."""
    parser = argparse.ArgumentParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    parser.add_argument(*names, dest="value", **how)
    known, rest = parser.parse_known_args(arguments)
    return known.value, rest


def _refuse_imports(recorded: Options, repeated: Options) -> None:
    """A folder from somebody else must not choose what is imported: packages, or the module before an id's colon."""
    if not set(recorded.gym_packages) <= set(repeated.gym_packages):
        option = f"--gym-packages {' '.join(recorded.gym_packages)}"
    elif ":" in recorded.env and recorded.env != repeated.env:
        option = f"--env {recorded.env}"
    else:
        return
    raise SettingsError(f"The run's command imports packages. To go on with it, repeat `{option}`.")


def _parse(arguments: Sequence[str], default: Options) -> Options:
    """The options; tyro explains a mistake in a box of several lines, of which the first ones are told in one."""
    with contextlib.redirect_stderr(io.StringIO()) as box:
        try:
            options, unknown = tyro.cli(Options, prog=PROGRAM, args=arguments, default=default, return_unknown_args=True)
        except SystemExit as error:
            if not error.code:  # --help
                raise
            text = box.getvalue().split("\n│ ─")[0]
            raise SettingsError(" ".join(line.strip("│ ") for line in text.splitlines()[1:])) from error
    if unknown:
        raise SettingsError(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def make_settings(entry: dict[str, Any], where: str) -> Settings:
    """
    Hyper-parameters of a YAML file's entry.

    :param entry: Values by name; ``normalize`` may hold the arguments of ``VecNormalize``.
    :param where: The file, for messages.
    :raises ValueError: If a name is unknown, or a value wrong.
    """
    own, of_training = ([field.name for field in fields(cls)] for cls in (Settings, BCConfig))
    check_known(f"hyper-parameter in {where}", entry, [*own[:-1], *of_training])
    values = dict(entry)
    if isinstance(values.get("normalize"), dict):
        values |= {"normalize": True, "normalize_kwargs": values["normalize"]}
    training = BCConfig(**{name: values.pop(name) for name in of_training if name in values})
    return Settings(**values, training=training)

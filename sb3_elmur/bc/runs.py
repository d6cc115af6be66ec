"""Run folders of behaviour cloning: how they are claimed, what is recorded in them, and how they are found again."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.command_line import SettingsError

ALGORITHM = "bc_elmur"
PROGRAM = "sb3-elmur bc"
SETTINGS_FILE, ARGUMENTS_FILE, COMMAND_FILE = "config.yml", "args.yml", "command.txt"  # rl_zoo3's names


def run_name(env: str) -> str:
    """
    The name of an environment in paths, without the module that registers it.

    :param env: Its id.
    """
    return env.rpartition(":")[2].replace("/", "-")


def new_run_folder(log_folder: Path, env: str) -> Path:
    """
    Make the first of ``<env>_1``, ``<env>_2``, ... that is not there yet.

    :param log_folder: Where the folders of all algorithms are.
    :param env: Id of the environment.
    :return: The folder, which no other process gets.
    """
    parent = log_folder / ALGORITHM
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = parent / f"{run_name(env)}_{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        break
    return folder


def unfinished_run(log_folder: Path, env: str, arguments: Sequence[str]) -> Path | None:
    """
    The newest run that a command began and that has not saved its model yet.

    :param log_folder: Where the folders of all algorithms are.
    :param env: Id of the environment.
    :param arguments: The command line.
    :return: Its folder, if there is one.
    """
    name, line = run_name(env), _as_recorded(arguments)
    records = (log_folder / ALGORITHM).glob(f"{name}_*/{name}/{COMMAND_FILE}")
    runs = [path.parents[1] for path in sorted(records, key=lambda path: path.stat().st_mtime) if path.read_bytes() == line]
    return next((run for run in reversed(runs) if not (run / f"{name}.zip").exists()), None)


def _as_recorded(arguments: Sequence[str]) -> bytes:
    return f"{shlex.join([*PROGRAM.split(), *arguments])}\n".encode()


def recorded_command(run: Path) -> Path:
    """
    Where a run's command stands, beside its settings.

    :param run: Its folder.
    :return: The file.
    :raises SettingsError: If it is no folder of a run.
    """
    record = next(run.glob(f"*/{COMMAND_FILE}"), None)
    if record is None:
        raise SettingsError(f"`--continue` must be the folder of a run. Received '{run}', without {COMMAND_FILE}.")
    return record


def recorded_arguments(run: Path) -> list[str]:
    """
    The command line that began a run.

    :param run: Its folder.
    :return: The arguments of the command.
    :raises SettingsError: If it is no folder of a run of this command.
    """
    record = recorded_command(run)
    words = shlex.split(record.read_text(encoding="utf-8"))
    program = PROGRAM.split()
    if words[: len(program)] == program:
        return words[len(program) :]
    raise SettingsError(f"{record} must begin with `{PROGRAM}`. It holds {' '.join(words)!r:.80}.")


def as_written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they are read again after they were written: tuples are lists."""
    return yaml.safe_load(yaml.safe_dump(dict(values)))


def record_run(folder: Path, settings: Mapping[str, Any], options: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """
    Save hyper-parameters, options and command as rl_zoo3 does: ``config.yml``, ``args.yml``, ``command.txt``.

    :param folder: Where to.
    :param settings: Hyper-parameters.
    :param options: The other options.
    :param arguments: The command line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        SETTINGS_FILE: yaml.safe_dump(dict(settings)),
        ARGUMENTS_FILE: yaml.safe_dump(
            {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        ),
        COMMAND_FILE: shlex.join([*PROGRAM.split(), *arguments]) + "\n",
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

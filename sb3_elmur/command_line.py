"""What all commands share: their common options, values on the command line, and mistakes told in one line."""

import argparse
import ast
import functools
import site
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import torch as th

MISTAKES = (ValueError, TypeError, ImportError, OSError, FloatingPointError, OverflowError, gymnasium.error.Error)
_N_SEEDS = 2**32
Main = Callable[..., None]  # of the command line, or of nothing for that of the process


class SettingsError(ValueError):
    """What a user asked for cannot be done, as the message says; no traceback would tell more."""


def told_in_one_line(main: Main, mistakes: tuple[type[Exception], ...] = MISTAKES) -> Main:
    """
    Make the main function of a command tell a user's mistake in one line on standard error, and exit with status 2.

    It also tells of Ctrl-C, with status 130.

    :param main: It takes the command line, or ``None`` for that of the process.
    :param mistakes: The errors that are told so; others keep their traceback, and so do those from the user's own modules.
    :return: The function that does so.
    """

    @functools.wraps(main)
    def told(arguments: Sequence[str] | None = None) -> None:
        try:
            main(arguments)
        except mistakes as error:
            if _is_from_users_code(error):
                raise
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            sys.exit(130)

    return told


def _is_from_users_code(error: Exception) -> bool:
    """Whether an error passed through a module that belongs neither to this package nor to Python, nor was installed."""
    installed = (sys.prefix, sys.base_prefix, site.getusersitepackages())
    return any(
        frame.f_globals.get("__name__", "").partition(".")[0] != __package__
        and Path(frame.f_code.co_filename).is_absolute()  # no "<frozen importlib._bootstrap>"
        and not frame.f_code.co_filename.startswith(installed)
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """
    Add the options that every command takes that makes an environment.

    :param parser: The command's.
    """
    parser.add_argument(
        "--env-kwargs", nargs="+", type=key_value, default=[], metavar="KEY:VALUE",
        help="arguments of the environment, values as in Python",
    )  # fmt: skip
    parser.add_argument(
        "--gym-packages", nargs="+", default=[], metavar="PACKAGE",
        help="packages to import, that register environments; the current folder is searched, too",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def take_common_options(options: argparse.Namespace) -> None:
    """
    Import the packages that the options of :func:`add_common_options` name, and check the others.

    :param options: What the command line says.
    :raises SettingsError: If a package or the device is not there, or NumPy takes no such seed.
    """
    import_packages(options.gym_packages)
    check_device(options.device)
    check_seed(options.seed)


def check_seed(seed: int) -> None:
    """
    Check that NumPy takes a seed.

    :param seed: What the user wrote.
    :raises SettingsError: If it does not.
    """
    if not 0 <= seed < _N_SEEDS:
        raise SettingsError(f"`--seed` must be in [0, {_N_SEEDS - 1}]. Received {seed}.")


def check_device(name: str) -> None:
    """
    Check that a device is there.

    :param name: PyTorch's, or ``"auto"``.
    :raises SettingsError: If it is not there.
    """
    if name == "auto":
        return
    try:
        th.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"`--device` must be there. Received {name!r}: {str(error).splitlines()[0]}") from error


def import_packages(packages: Iterable[str]) -> None:
    """
    Import the packages that register a user's environments; the current folder is searched as by ``python -m``.

    :param packages: Their names.
    :raises SettingsError: If one cannot be found.
    """
    for package in packages:
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            if not f"{package}.".startswith(f"{error.name}."):
                raise
            raise SettingsError(f"`--gym-packages` must name packages that can be imported. Received {package!r}.") from error


def key_value(text: str) -> tuple[str, Any]:
    """
    A pair ``key:value`` as rl_zoo3 takes them; the value is a Python literal, or else a string.

    :param text: What the user wrote.
    :return: Key and value.
    :raises argparse.ArgumentTypeError: If there is no colon.
    """
    key, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"expected KEY:VALUE, received {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value

"""Packages that come with extras of the installation."""

from importlib import import_module
from typing import Any

from gymnasium.error import DependencyNotInstalled


def require(module: str, extra: str) -> Any:
    """
    Import a module that not everybody has.

    :param module: Its name.
    :param extra: The extra of this package that brings it.
    :return: The module.
    :raises DependencyNotInstalled: If it, or what it imports, is missing.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise DependencyNotInstalled(f'{error.name} is missing: run `pip install "sb3-elmur[{extra}]"`.') from error

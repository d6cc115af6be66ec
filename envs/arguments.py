"""Checks of arguments that all environments share."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def check_integer(name: str, value: Any, minimum: int) -> int:
    """
    Return ``value`` as a Python int.

    :param name: Argument that an error names.
    :param value: Python or NumPy integer; bools are refused.
    :param minimum: Smallest accepted value.
    :return: The same number.
    :raises ValueError: If ``value`` is not an integer or is too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"`{name}` must be an integer. Received {value!r}.")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}. Received {value}.")
    return int(value)

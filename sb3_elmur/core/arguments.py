"""Checks of arguments: each error names the argument, what was received and what is allowed."""

import sys
from numbers import Integral, Real
from typing import Any

LARGEST = 2**40


def check_count(name: str, value: object, smallest: int) -> None:
    """
    Refuse what is no integer, too small a one, or one that no computer counts to.

    :param name: The argument, for the message.
    :param value: What was received.
    :param smallest: The smallest integer that is allowed.
    :raises ValueError: If it is refused.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < smallest:
        raise ValueError(f"`{name}` must be an integer of at least {smallest}. Received {value!r}.")
    if int(value) > LARGEST:
        raise ValueError(f"`{name}` must be an integer of at most {LARGEST}. Received {value!r}.")


def check_range(name: str, value: Any, low: float, high: float, open_end: bool = False) -> None:
    """
    Refuse what is no finite number, or lies outside a range.

    :param name: The argument, for the message.
    :param value: What was received.
    :param low: The smallest number that is allowed.
    :param high: The largest.
    :param open_end: Whether ``high`` itself is refused.
    :raises ValueError: If it is refused.
    """
    allowed = f"[{low:g}, {high:g}" + (")" if open_end or high == float("inf") else "]")
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and low <= value <= min(high, sys.float_info.max)) or (open_end and value == high):
        raise ValueError(f"`{name}` must be a number in {allowed}. Received {value!r}.")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """
    Refuse what is not one of several names.

    :param name: The argument, for the message.
    :param value: What was received.
    :param choices: The names.
    :raises ValueError: If it is refused.
    """
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}. Received {value!r}.")


def check_size(name: str, size: object) -> None:
    """
    Check a size, such as that of a trust region.

    :param name: The argument, for the message.
    :param size: What a user gave.
    :raises ValueError: If it is no number above 0.
    """
    number = isinstance(size, Real) and not isinstance(size, bool)
    if not (number and 0.0 < float(size) < float("inf")):  # type: ignore[arg-type]
        raise ValueError(f"`{name}` must be a number above 0. Received {size!r}.")


def check_flags(**flags: object) -> None:
    """
    Refuse flags that are something else.

    :param flags: Arguments by name.
    :raises ValueError: If one is neither True nor False.
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"`{name}` must be True or False. Received {flag!r}.")

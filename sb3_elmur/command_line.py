"""Values on a command line."""

import argparse
import ast
from typing import Any


class SettingsError(ValueError):
    """What a user asked for cannot be done, as the message says; no traceback would tell more."""


def key_value(text: str) -> tuple[str, Any]:
    """
    A pair ``key:value`` as rl_zoo3 takes them; the value is a Python literal, or else a string.

    :param text: What the user wrote.
    :raises argparse.ArgumentTypeError: If there is no colon.
    """
    key, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"expected KEY:VALUE, received {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value

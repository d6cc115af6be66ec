"""Values from YAML, checked against annotations before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def check_keys(where: str, given: Iterable[object], allowed: Iterable[object]) -> None:
    """
    :param where: Whose keys they are, for the message.
    :param given: Keys that are there.
    :param allowed: Keys that may be there.
    :raises ValueError: If one may not.
    """
    allowed = list(allowed)
    for key in given:
        if key not in allowed:
            raise ValueError(f"{where} has the unknown key {key!r}. Allowed are {', '.join(map(str, allowed)) or 'none'}.")


def check_type(where: str, value: object, hint: Any) -> None:
    """
    :param where: What the value is, for the message.
    :param value: From YAML.
    :param hint: Annotation that it must follow.
    :raises ValueError: If it does not.
    """
    if not conforms(value, hint):
        name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
        raise ValueError(f"{where} must be {name}. Received {value!r}.")


def conforms(value: object, hint: Any) -> bool:
    """
    Whether a value is what an annotation says.

    :param value: From YAML, where a tuple is a list; classes are there in strings that rl_zoo3 evaluates.
    :param hint: The annotation.
    """
    arguments = get_args(hint)
    if hint is Any:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(conforms(value, option) for option in arguments)
    if hint is int or hint is float:
        return isinstance(value, int | hint) and not isinstance(value, bool)
    if get_origin(hint) in (list, tuple):
        return isinstance(value, list) and all(conforms(item, arguments[0]) for item in value)
    if get_origin(hint) is type:
        return isinstance(value, type) and issubclass(value, arguments[0])
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(
            conforms(key, arguments[0]) and conforms(item, arguments[1]) for key, item in value.items()
        )
    return hint in (str, bool, NoneType) and isinstance(value, hint)


def build(cls: type[T], where: str, given: object) -> T:
    """
    Make a dataclass from a mapping.

    :param cls: The dataclass; lists become tuples.
    :param where: What the mapping is, for messages.
    :param given: The mapping.
    :raises ValueError: If a key is unknown or missing, or a value of another type.
    """
    check_type(where, given, dict[str, Any])
    assert isinstance(given, Mapping)
    hints, known = get_type_hints(cls), fields(cls)  # type: ignore[arg-type]
    check_keys(where, given, [field.name for field in known])
    for field in known:
        if field.name in given:
            check_type(f"`{field.name}` of {where}", given[field.name], hints[field.name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where} needs the key `{field.name}`.")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})

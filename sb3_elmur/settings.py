"""Names and values that users write in YAML, checked before anything runs: each error names them and what is allowed."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
CLASS_ENDINGS = ("_class", "_fn")  # of arguments of a policy that are classes


def check_known(what: str, names: Iterable[object], known: Iterable[object]) -> None:
    """
    :param what: What the names are, for the message.
    :param names: Those that are there.
    :param known: Those that may be there.
    :raises ValueError: If one may not.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"Unknown {what}: {name!r}. Known are {', '.join(map(str, known)) or 'none'}.")


def check_type(where: str, value: object, hint: Any, or_else: str = "") -> None:
    """
    :param where: What the value is, for the message.
    :param value: From YAML.
    :param hint: Annotation that it must follow.
    :param or_else: What is allowed too, for the message.
    :raises ValueError: If it does not follow it.
    """
    if conforms(value, hint):
        return
    message = f"{where} must be {inspect.formatannotation(hint).replace('typing.', '')}{or_else}. Received {value!r}."
    number = as_number(value)
    if number is not None and conforms(number, hint):
        message += f" To YAML that is text; a number has a point: {number:.1e}."
    raise ValueError(message)


def as_number(value: object) -> float | None:
    """The number that a text says, if it is a text and says one."""
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def conforms(value: Any, hint: Any) -> bool:
    """
    Whether a value is what an annotation says. An integer is a float too, but no bool is a number.

    :param value: From YAML, where a tuple is a list; classes are there in strings that rl_zoo3 evaluates.
    :param hint: The annotation. What is no class, such as ``Literal``, is left to whom the value is for.
    """
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, UnionType):
        return any(conforms(value, option) for option in arguments)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    if kind is type and arguments:
        return isinstance(value, type) and (not isinstance(arguments[0], type) or issubclass(value, arguments[0]))
    if kind is dict and arguments:
        return isinstance(value, dict) and all(
            conforms(key, arguments[0]) and conforms(item, arguments[1]) for key, item in value.items()
        )
    if kind in (list, tuple):
        each_is = arguments[0] if arguments and (kind is list or arguments[-1] is ...) else Any
        return isinstance(value, list if kind is list else list | tuple) and all(conforms(item, each_is) for item in value)
    return not isinstance(kind, type) or isinstance(value, kind)


def argument_types(cls: type, without: Iterable[str] = ()) -> dict[str, Any]:
    """
    Annotations of a constructor's arguments, and of those that it hands on to its base classes as ``**kwargs``.

    :param cls: The class. Keyword arguments that it collects as ``**unknown`` it refuses.
    :param without: Arguments to leave out, beside ``self``.
    """
    types: dict[str, Any] = {}
    for base in cls.__mro__:
        constructor = inspect.getattr_static(base, "__init__")
        hints = get_type_hints(constructor)
        parameters = inspect.signature(constructor).parameters.values()
        named = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        types = {name: hints.get(name, Any) for name in named} | types
        if not any(each.kind is each.VAR_KEYWORD and each.name != "unknown" for each in parameters):
            break
    return {name: hint for name, hint in types.items() if name not in {"self", *without}}


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
    check_known(f"key of {where}", given, [field.name for field in known])
    for field in known:
        if field.name in given:
            check_type(f"`{field.name}` of {where}", given[field.name], hints[field.name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where} needs the key `{field.name}`.")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})


def find_class(path: str) -> type | None:
    """
    The class of a dotted path, or None if there is none.

    :param path: Such as ``"sb3_elmur.encoders.FourLayerExtractor"``.
    :raises ModuleNotFoundError: If the module is there, but not what it imports.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None) if module else None
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        return None
    return found if isinstance(found, type) else None


def with_classes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Arguments of a policy, with classes in place of their dotted paths.

    :param arguments: Values by name; those of names that end in ``_class`` or ``_fn`` may be paths.
    :raises ValueError: If there is no class of such a path.
    """
    found = dict(arguments)
    for name, value in arguments.items():
        if name.endswith(CLASS_ENDINGS) and isinstance(value, str):
            found[name] = find_class(value)
            if found[name] is None:
                raise ValueError(f"`{name}` must be the dotted path of a class. Received {value!r}.")
    return found

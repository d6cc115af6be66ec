"""Names and values that users write in YAML, read and checked before anything runs: errors name them and what is allowed."""

import ast
import difflib
import inspect
import reprlib
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn, optim

from sb3_elmur.core.arguments import check_range

DEFAULT = "default"  # key of the settings of all environments that have none of their own
SCHEDULE = "lin_"  # before a number: the value falls from it to 0
CLASS_ENDINGS = ("_class", "_fn")  # of arguments of a policy that are classes
BASES: dict[str, type] = {
    "features_extractor_class": BaseFeaturesExtractor,
    "optimizer_class": optim.Optimizer,
    "activation_fn": nn.Module,
}
UNREADABLE = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = 120
_shortened.maxlevel = 3


# Files


class _Loader(yaml.SafeLoader):
    """Safe YAML, in which no key of a mapping stands twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise yaml.composer.ComposerError(None, None, f"`{twice[0]}` stands twice", node.start_mark)
        return node


def read_settings(file: str | Path, env_id: str, *others: str) -> dict[str, Any]:
    """
    Settings of one environment, or else those of ``default``, which is said aloud.

    :param file: As for :func:`find_settings`, as are the other arguments.
    :param env_id: Registered id.
    :param others: Keys that serve for it, too, before ``default``.
    :return: Values by name.
    :raises OSError: If the file cannot be read.
    :raises ValueError: If it is not YAML, or has neither.
    """
    key, settings = find_settings(file, env_id, *others)
    if key == DEFAULT:
        print(f"{file} has no settings for {env_id}: those of `{DEFAULT}` are taken.")
    return settings


def find_settings(file: str | Path, env_id: str, *others: str) -> tuple[str, dict[str, Any]]:
    """
    Settings of one environment, or else those of ``default``.

    :param file: A name in ``zoo_configs``, such as ``"ppo_elmur.yml"``, or the path of a YAML file of the same grammar.
    :param env_id: Registered id.
    :param others: Keys that serve for it, too, before ``default``.
    :return: The key under which they stand, and values by name.
    :raises OSError: If the file cannot be read.
    :raises ValueError: If it is not YAML, or has neither.
    """
    by_environment = read_file(file)
    for key in (env_id, *others, DEFAULT):
        if key in by_environment:
            _check_mapping(f"`{key}` of {file}", by_environment[key])
            return key, by_environment[key]
    known = ", ".join(by_environment) or "nothing"
    raise ValueError(f"{file} has no settings for {env_id}: give it the key `{env_id}`, or `{DEFAULT}`. It has {known}.")


def read_file(file: str | Path) -> dict[str, Any]:
    """
    What a YAML file maps.

    :param file: As for :func:`find_settings`.
    :return: Values by key.
    :raises OSError: If the file cannot be read.
    :raises ValueError: If it is not YAML, or no mapping.
    """
    path = packaged(file) if isinstance(file, str) else file
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except UNREADABLE as error:  # PyYAML leaks what converts its scalars
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    _check_mapping(str(file), content)
    return content


def _check_mapping(where: str, content: object) -> None:
    if not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise ValueError(f"{where} must map names to values. Received {_shortened.repr(content)}.")


def packaged(name: str) -> Path:
    """
    Find a packaged file of settings.

    :param name: Of a file of ``zoo_configs``.
    :return: Where it is.
    """
    return Path(str(files("sb3_elmur.zoo_configs").joinpath(name)))


# Values


def schedule(value: Any) -> Any:
    """
    What rl_zoo3 makes of ``lin_<x>``: a schedule that falls from x to 0.

    :param value: From YAML. What is no text stays what it is.
    :return: A schedule, or the value.
    :raises ValueError: If it is another text.
    """
    if not isinstance(value, str):
        return value
    number = as_number(value.removeprefix(SCHEDULE))
    if number is None or not value.startswith(SCHEDULE):
        raise ValueError(f"A schedule must be a number, or '{SCHEDULE}<number>'. Received {value!r}.{_hint(as_number(value))}")
    return LinearSchedule(number, 0.0, 1.0)


def as_literal(name: str, value: Any) -> Any:
    """
    What rl_zoo3 would evaluate, read without evaluating it: ``"dict(net_arch=[64], activation_fn=nn.ReLU)"``.

    :param name: Of the setting, for the message.
    :param value: From YAML. What is no text stays what it is.
    :return: Literals, ``dict(...)`` of them, and classes of :mod:`torch.nn`.
    :raises ValueError: If the text says anything else.
    """
    if not isinstance(value, str):
        return value
    try:
        return _read(ast.parse(value.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"`{name}` must be a Python literal, or `dict(...)` of literals and of classes `nn.<name>`. Received {value!r}."
        ) from error


def _read(node: ast.expr) -> Any:
    match node:
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_read(key): _read(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.List(elts=elements):
            return [_read(element) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_read(element) for element in elements)
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(keyword.arg for keyword in keywords):
            return {keyword.arg: _read(keyword.value) for keyword in keywords}
        case ast.Attribute(value=ast.Name(id="nn"), attr=name) if isinstance(getattr(nn, name, None), type):
            return getattr(nn, name)
        case _:
            return ast.literal_eval(node)


def as_number(value: object) -> float | None:
    """The number that a text says, or ``None`` if it says none, or is no text."""
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _hint(number: float | None) -> str:
    return "" if number is None else f" To YAML that is text; a number has a point: {number:.1e}."


# Checks


def check_known(what: str, names: Iterable[object], known: Iterable[object]) -> None:
    """
    Refuse names that nothing knows.

    :param what: What the names are, for the message.
    :param names: Those that are there.
    :param known: Those that may be there.
    :raises ValueError: If one may not.
    """
    known = list(known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), [str(one) for one in known], n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"Known are {', '.join(map(str, known)) or 'none'}."
            raise ValueError(f"Unknown {what}: {name!r}. {hint}")


def check_type(where: str, value: object, hint: Any, or_else: str = "") -> None:
    """
    Refuse a value of another type than an annotation says.

    :param where: What the value is, for the message.
    :param value: From YAML.
    :param hint: Annotation that it must follow.
    :param or_else: What is allowed too, for the message.
    :raises ValueError: If it does not follow it.
    """
    if conforms(value, hint):
        return
    message = f"{where} must be {inspect.formatannotation(hint).replace('typing.', '')}{or_else}."
    number = as_number(value)
    explanation = _hint(number) if conforms(number, hint) else ""
    raise ValueError(f"{message} Received {_shortened.repr(value)}.{explanation}")


def conforms(value: Any, hint: Any) -> bool:
    """
    Whether a value is what an annotation says. An integer is a float too, but no bool is a number.

    :param value: From YAML, where a tuple is a list.
    :param hint: The annotation.
    """
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except PydanticUserError:  # an annotation of which nothing can be checked
        return True
    if not adapter.pydantic_complete:  # it names what is not there
        return True
    for candidate in (value, tuple(value)) if isinstance(value, list) else (value,):
        try:
            adapter.validate_python(candidate)
        except (ValidationError, RecursionError):
            continue
        return not (isinstance(value, int) and abs(value) >= 2**63)  # which no counter holds
    return False


def argument_types(cls: type, without: Iterable[str] = ()) -> dict[str, Any]:
    """
    Annotations of a constructor's arguments, and of those that it hands on to its base classes as ``**kwargs``.

    :param cls: The class.
    :param without: Arguments to leave out, beside ``self``.
    :return: Annotations by name.
    """
    return {name: hint for name, (hint, _) in _arguments(cls).items() if name not in {"self", *without}}


def argument_defaults(cls: type) -> dict[str, Any]:
    """
    Values of a constructor's arguments, and of those that it hands on as ``**kwargs``, where nobody gives them.

    :param cls: The class.
    :return: Values by name, of the arguments that have one.
    """
    return {name: default for name, (_, default) in _arguments(cls).items() if default is not inspect.Parameter.empty}


def _arguments(cls: type) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of each argument."""
    arguments: dict[str, tuple[Any, Any]] = {}
    for base in cls.__mro__:
        constructor = inspect.getattr_static(base, "__init__")
        hints = get_type_hints(constructor)
        parameters = inspect.signature(constructor).parameters.values()
        named = [
            parameter
            for parameter in parameters
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
        arguments = {each.name: (hints.get(each.name, Any), each.default) for each in named} | arguments
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return arguments


def check_normalization(arguments: Mapping[str, Any]) -> None:
    """
    Check the arguments of ``VecNormalize``.

    :param arguments: Values by name.
    :raises ValueError: If a name is unknown, or a value of the wrong type or outside of its range.
    """
    types = argument_types(VecNormalize, ["venv", "training"])
    check_known("argument of VecNormalize in `normalize`", arguments, types)
    for name, value in arguments.items():
        check_type(f"`{name}` of `normalize`", value, types[name])
    for name in ("clip_obs", "clip_reward", "epsilon"):
        check_range(name, arguments.get(name, 0.0), 0.0, float("inf"))
    check_range("gamma", arguments.get("gamma", 0.0), 0.0, 1.0)


# Classes by their dotted paths


def find_class(path: str, base: type = object) -> type | None:
    """
    The class of a dotted path, or ``None`` if there is none.

    :param path: Such as ``"sb3_elmur.encoders.FourLayerExtractor"``.
    :param base: Of which it must be a subclass; nothing is called to find out.
    :return: The class.
    :raises ModuleNotFoundError: If the module is there, but not what it imports.
    """
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in module.split(".")):
        return None
    try:
        attribute = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        return None
    return attribute if isinstance(attribute, type) and issubclass(attribute, base) else None


def with_classes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Arguments of a policy, with classes in place of their dotted paths.

    :param arguments: Values by name; those of names that end in ``_class`` or ``_fn`` may be paths.
    :return: The same, but for the paths.
    :raises ValueError: If there is no class of such a path, or none of the kind that the argument takes.
    """
    resolved = dict(arguments)
    for name, value in arguments.items():
        if name.endswith(CLASS_ENDINGS) and isinstance(value, str):
            base = BASES.get(name, object)
            kind = "a class" if base is object else f"a subclass of {base.__name__}"
            resolved[name] = find_class(value, base)
            if resolved[name] is None:
                raise ValueError(f"`{name}` must be the dotted path of {kind}. Received {value!r}.")
    return resolved

"""What a YAML file of rl_zoo3 says about recurrent PPO, checked: each error names the key and what is allowed."""

import inspect
from collections.abc import Iterable
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from sb3_contrib import RecurrentPPO

SCHEDULE = "lin_"
SCHEDULES: dict[str, Any] = {"learning_rate": float, "clip_range": float, "clip_range_vf": float | None}
CLASSES = str | list | dict | None
READ_BY_ZOO: dict[str, Any] = {
    "policy": str,
    "policy_kwargs": dict | str | None,
    "n_timesteps": float,
    "n_envs": int,
    "env_kwargs": dict,
    "env_wrapper": CLASSES,
    "vec_env_wrapper": CLASSES,
    "callback": CLASSES,
    "monitor_kwargs": dict | str,
    "normalize": bool | dict | str,
    "frame_stack": int,
}
SET_BY_ZOO = {"self", "env", "tensorboard_log", "seed", "verbose", "device", "_init_setup_model"}
SET_BY_ALGORITHM = {"self", "observation_space", "action_space", "lr_schedule", "use_sde"}

REFUSED = "unknown"  # what ElmurPolicy collects as keyword arguments, only to refuse it


def check_settings(algorithm: type[RecurrentPPO], settings: dict[str, Any]) -> None:
    """
    Check what a YAML file, or the command line, says of one environment.

    :param algorithm: Class to be trained.
    :param settings: Values by name.
    :raises ValueError: If a name is unknown or missing, or a value of the wrong type.
    """
    types = _argument_types(algorithm, SET_BY_ZOO) | READ_BY_ZOO
    _check_known("hyper-parameter", settings, types)
    for name in ("policy", "n_timesteps"):
        if name not in settings:
            raise ValueError(f"The hyper-parameter `{name}` is missing.")
    for name, value in settings.items():
        if name in SCHEDULES:
            _check_type(name, _initial_value(value), SCHEDULES[name], f", or '{SCHEDULE}<number>'")
        else:
            _check_type(name, value, types[name])


def check_policy_arguments(algorithm: type[RecurrentPPO], policy: str | type, arguments: dict[str, Any]) -> None:
    """
    Check names and types of the arguments of a policy; it checks their ranges itself.

    :param algorithm: Class that knows policies by name.
    :param policy: Such a name, or a class.
    :param arguments: Values by name.
    :raises ValueError: If the policy or a name is unknown, or a value of the wrong type.
    """
    if isinstance(policy, str):
        _check_known("policy", [policy], algorithm.policy_aliases)
        policy = algorithm.policy_aliases[policy]
    types = _argument_types(policy, SET_BY_ALGORITHM)
    _check_known(f"argument of {policy.__name__} in `policy_kwargs`", arguments, types)
    for name, value in arguments.items():
        _check_type(name, value, types[name])


def _argument_types(cls: type, without: set[str]) -> dict[str, Any]:
    """Types of the constructor's arguments, and of those that it hands on to its base classes as ``**kwargs``."""
    types: dict[str, Any] = {}
    for base in cls.__mro__:
        constructor = inspect.getattr_static(base, "__init__")
        hints = get_type_hints(constructor)
        parameters = inspect.signature(constructor).parameters.values()
        named = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        types = {name: hints.get(name, Any) for name in named} | types
        if not any(each.kind is each.VAR_KEYWORD and each.name != REFUSED for each in parameters):
            break
    return {name: hint for name, hint in types.items() if name not in without}


def _check_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = sorted(known)
    for name in names:
        if name not in known:
            raise ValueError(f"Unknown {what}: {name!r}. Known are {', '.join(known)}.")


def _initial_value(schedule: Any) -> Any:
    """The number that a schedule begins with, or what is not one as it is."""
    try:
        return float(schedule.removeprefix(SCHEDULE)) if str(schedule).startswith(SCHEDULE) else schedule
    except ValueError:
        return schedule


def _check_type(name: str, value: Any, hint: Any, or_else: str = "") -> None:
    if _fits(value, hint):
        return
    message = f"`{name}` must be {inspect.formatannotation(hint)}{or_else}. Received {value!r}."
    if isinstance(value, str) and _initial_value(SCHEDULE + value) != SCHEDULE + value:
        message += f" To YAML that is text; a number has a point: {float(value):.1e}."
    raise ValueError(message)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    kind = get_origin(hint) or hint
    return not isinstance(kind, type) or isinstance(
        value, kind
    )  # what is no class, such as Literal, is left to the constructor

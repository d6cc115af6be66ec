"""What a YAML file of rl_zoo3 says about recurrent PPO, checked: each error names the key and what is allowed."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from math import inf
from typing import Any

import gymnasium
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_elmur.core.arguments import check_count, check_range, check_size
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.registry import find_core
from sb3_elmur.envs.batch import creator_of
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.policy_arguments import check_net_arch
from sb3_elmur.settings import (
    SCHEDULE,
    argument_types,
    as_literal,
    as_number,
    check_known,
    check_normalization,
    check_type,
    find_class,
    schedule,
    with_classes,
)

SCHEDULES: dict[str, Any] = {"learning_rate": float, "clip_range": float, "clip_range_vf": float | None}
CLASSES: dict[str, type] = {"env_wrapper": gymnasium.Wrapper, "vec_env_wrapper": VecEnvWrapper, "callback": BaseCallback}
READ_AS_LITERAL: dict[str, Any] = {  # text that rl_zoo3 evaluates
    "policy_kwargs": dict[str, Any] | None,
    "monitor_kwargs": dict[str, Any],
    "normalize": bool | dict[str, Any],
}
READ_BY_ZOO: dict[str, Any] = {
    "policy": str,
    "n_timesteps": float,
    "n_envs": int,
    "env_kwargs": dict[str, Any],
    "frame_stack": int,
    **dict.fromkeys(CLASSES, str | list | dict | None),
    **READ_AS_LITERAL,
}
SET_BY_ZOO = ("env", "tensorboard_log", "seed", "verbose", "device", "_init_setup_model")
SET_BY_ALGORITHM = ("observation_space", "action_space", "lr_schedule", "use_sde")
COUNTS = ("n_envs", "frame_stack", "n_steps", "batch_size", "n_epochs", "stats_window_size")
SIZES = ("clip_range", "clip_range_vf", "target_kl", "trust_region")
MOST_LAYERS = 1000  # more would be built for hours before memory ends
RANGES = {
    "n_timesteps": (1.0, 2.0**53),
    "n_envs": (1.0, 2.0**16),
    "frame_stack": (1.0, 2.0**16),
    **dict.fromkeys(("gamma", "gae_lambda"), (0.0, 1.0)),
    **dict.fromkeys(("learning_rate", "ent_coef", "vf_coef", "max_grad_norm"), (0.0, inf)),
}


def checked_settings(algorithm: type[RecurrentPPO], settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Check what a YAML file, or the command line, says of one environment. Nothing of it is evaluated, or called.

    :param algorithm: Class to be trained.
    :param settings: Values by name.
    :return: The same, with literals in place of text that rl_zoo3 would evaluate.
    :raises ValueError: If a name is unknown or missing, a value of the wrong type or outside its range, or a class not there,
        or of another kind.
    """
    types = argument_types(algorithm, SET_BY_ZOO) | READ_BY_ZOO
    check_known("hyper-parameter", settings, sorted(types))
    for name in ("policy", "n_timesteps"):
        if name not in settings:
            raise ValueError(f"The hyper-parameter `{name}` is missing.")
    checked = dict(settings)
    for name, value in settings.items():
        if name in SCHEDULES:
            check_schedule(f"`{name}`", value, SCHEDULES[name])
        else:
            checked[name] = as_literal(name, value) if name in READ_AS_LITERAL else value
            check_type(f"`{name}`", checked[name], types[name])
    check_ranges(settings)
    if isinstance(normalize := checked.get("normalize"), dict):
        check_normalization(normalize)
    check_known("argument of Monitor in `monitor_kwargs`", checked.get("monitor_kwargs", {}), argument_types(Monitor, ["env"]))
    for name, base in CLASSES.items():
        if checked.get(name) is not None:
            checked[name] = checked_classes(name, checked[name], base)
    if "." in settings["policy"] and find_class(settings["policy"], BasePolicy) is None:
        raise ValueError(f"`policy` must be a name, or the dotted path of a policy class. Received {settings['policy']!r}.")
    return checked


def check_ranges(settings: Mapping[str, Any]) -> None:
    """
    Refuse hyper-parameters that are outside their ranges.

    :param settings: Values by name, of the right types.
    :raises ValueError: If one is.
    """
    for name in COUNTS:
        if settings.get(name) is not None:
            check_count(name, settings[name], 1)
    for name, (low, high) in RANGES.items():
        if settings.get(name) is not None:
            check_range(name, initial_value(settings[name]), low, high)
    for name in SIZES:
        if settings.get(name) is not None:
            check_size(name, initial_value(settings[name]))


def check_schedule(where: str, value: Any, hint: Any) -> None:
    """
    Check what may be a schedule.

    :param where: What the value is, for the message.
    :param value: From YAML.
    :param hint: Annotation of its values.
    :raises ValueError: If it is neither a value nor a schedule.
    """
    check_type(where, initial_value(value), hint, f", or '{SCHEDULE}<number>'")


def initial_value(value: Any) -> Any:
    """The number that a schedule begins with; what is none stays as it is."""
    number = as_number(value.removeprefix(SCHEDULE)) if isinstance(value, str) and value.startswith(SCHEDULE) else None
    return value if number is None else schedule(value).start


def checked_classes(name: str, entries: Any, base: type) -> list[Any]:
    """Paths of classes, or mappings of one path to arguments, as rl_zoo3 takes them: one, or a list of them."""
    checked: list[Any] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        mapping = {entry: {}} if isinstance(entry, str) else entry if isinstance(entry, dict) else {}
        ((path, arguments),) = mapping.items() if len(mapping) == 1 else ((None, None),)
        arguments = {} if arguments is None else arguments
        cls = find_class(path, base) if isinstance(path, str) else None
        if path is None or cls is None or not isinstance(arguments, dict):
            raise ValueError(
                f"`{name}` must be the dotted path of a subclass of {base.__name__}, `<path>: <arguments>`, or a list. "
                f"Received {entry!r}."
            )
        _check_arguments(f"argument of {cls.__name__} in `{name}`", cls, arguments)
        checked.append({path: arguments})
    return checked


def made_callbacks(entries: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[BaseCallback]:
    """
    Make callbacks.

    :param entries: As :func:`checked_classes` returns them.
    """
    made = []
    for entry in entries:
        for path, arguments in entry.items():
            cls: Any = find_class(path, BaseCallback)
            made.append(cls(**arguments))
    return made


def _check_arguments(what: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Names only: a class checks values itself."""
    parameters = inspect.signature(function).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        check_known(what, arguments, parameters)


def checked_policy_arguments(
    algorithm: type[RecurrentPPO], policy: str | type, arguments: Mapping[str, Any] | None
) -> dict[str, Any]:
    """
    Check names, types and ranges of the arguments of a policy.

    :param algorithm: Class that knows policies by name.
    :param policy: Such a name, or a class.
    :param arguments: Values by name.
    :return: The same, with classes in place of their dotted paths.
    :raises ValueError: If the policy or a name is unknown, or a value of the wrong type or outside its range.
    """
    resolved = with_classes(arguments or {})
    if isinstance(policy, str):
        check_known("policy", [policy], sorted(algorithm.policy_aliases))
        policy = algorithm.policy_aliases[policy]
    types = argument_types(policy, SET_BY_ALGORITHM)
    check_known(f"argument of {policy.__name__} in `policy_kwargs`", resolved, sorted(types))
    for name, value in resolved.items():
        check_type(f"`{name}`", value, types[name])
    check_policy_ranges(policy, resolved)
    check_range("n_layers", resolved.get("n_layers", 1), 1.0, MOST_LAYERS)
    return resolved


def check_policy_ranges(policy: type, arguments: Mapping[str, Any]) -> None:
    """
    Refuse hyper-parameters of an ELMUR policy that are outside their ranges.

    :param policy: A policy class; others than ours check themselves.
    :param arguments: Some of its arguments.
    :raises ValueError: If a hyper-parameter of an ELMUR policy is outside its range.
    """
    if issubclass(policy, ElmurPolicy):
        names = {field.name for field in fields(ElmurConfig)}
        check_net_arch(arguments.get("net_arch"))
        config = ElmurConfig(**{name: value for name, value in arguments.items() if name in names})
        find_core(config.core).check(config)


def check_env_arguments(env_id: str, arguments: Mapping[str, Any]) -> None:
    """
    Check names of the arguments of an environment; it checks their values itself.

    :param env_id: Registered id.
    :param arguments: Values by name.
    :raises ValueError: If neither the environment nor ``gymnasium.make`` knows one.
    """
    parameters = inspect.signature(creator_of(env_id)).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        own = [name for name in parameters if name != "self"]
        known = [*own, *(name for name in inspect.signature(gymnasium.make).parameters if name not in ("id", "kwargs"))]
        check_known(f"argument of {env_id} in `env_kwargs`", arguments, known)

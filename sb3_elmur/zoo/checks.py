"""What a YAML file of rl_zoo3 says about recurrent PPO, checked: each error names the key and what is allowed."""

import inspect
import linecache
import traceback
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from sb3_contrib import RecurrentPPO

from sb3_elmur.core.config import ElmurConfig, check_count
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.settings import argument_types, as_number, check_known, check_type, find_class

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
SET_BY_ZOO = ("env", "tensorboard_log", "seed", "verbose", "device", "_init_setup_model")
SET_BY_ALGORITHM = ("observation_space", "action_space", "lr_schedule", "use_sde")


def refuses(error: BaseException, packages: Collection[str]) -> bool:
    """
    Whether one of the packages raised an error by a statement of its own with a message, rather than by what it called.

    :param error: What was raised.
    :param packages: Names of top-level packages.
    """
    *_, (frame, number) = traceback.walk_tb(error.__traceback__)
    package = (frame.f_globals.get("__package__") or "").split(".")[0]
    statement = linecache.getline(frame.f_code.co_filename, number).split()
    return package in packages and statement[:1] in (["raise"], ["assert"]) and bool(str(error))


def check_settings(algorithm: type[RecurrentPPO], settings: dict[str, Any]) -> None:
    """
    Check what a YAML file, or the command line, says of one environment.

    :param algorithm: Class to be trained.
    :param settings: Values by name.
    :raises ValueError: If a name is unknown or missing, a value of the wrong type, or a policy not there.
    """
    types = argument_types(algorithm, SET_BY_ZOO) | READ_BY_ZOO
    check_known("hyper-parameter", settings, sorted(types))
    for name in ("policy", "n_timesteps"):
        if name not in settings:
            raise ValueError(f"The hyper-parameter `{name}` is missing.")
    for name, value in settings.items():
        if name in SCHEDULES:
            check_type(f"`{name}`", _initial_value(value), SCHEDULES[name], f", or '{SCHEDULE}<number>'")
        else:
            check_type(f"`{name}`", value, types[name])
    check_count("n_envs", settings.get("n_envs", 1), 1)
    if "." in settings["policy"] and find_class(settings["policy"]) is None:
        raise ValueError(f"`policy` must be a name, or the dotted path of a class. Received {settings['policy']!r}.")


def check_policy_arguments(algorithm: type[RecurrentPPO], policy: str | type, arguments: dict[str, Any]) -> None:
    """
    Check names, types and ranges of the arguments of a policy.

    :param algorithm: Class that knows policies by name.
    :param policy: Such a name, or a class.
    :param arguments: Values by name.
    :raises ValueError: If the policy or a name is unknown, or a value of the wrong type or outside its range.
    """
    if isinstance(policy, str):
        check_known("policy", [policy], sorted(algorithm.policy_aliases))
        policy = algorithm.policy_aliases[policy]
    types = argument_types(policy, SET_BY_ALGORITHM)
    check_known(f"argument of {policy.__name__} in `policy_kwargs`", arguments, sorted(types))
    for name, value in arguments.items():
        check_type(f"`{name}`", value, types[name])
    check_policy_ranges(policy, arguments)


def check_policy_ranges(policy: type, arguments: Mapping[str, Any]) -> None:
    """
    :param policy: A policy class; others than ours check themselves.
    :param arguments: Some of its arguments.
    :raises ValueError: If a hyper-parameter of an ELMUR policy is outside its range.
    """
    if issubclass(policy, ElmurPolicy):
        names = {field.name for field in fields(ElmurConfig)}
        ElmurConfig(**{name: value for name, value in arguments.items() if name in names})


def check_env_arguments(env_id: str, arguments: Mapping[str, Any]) -> None:
    """
    Check names of the arguments of an environment; it checks their values itself.

    :param env_id: Registered id.
    :param arguments: Values by name.
    :raises ValueError: If neither the environment nor ``gymnasium.make`` knows one.
    """
    entry_point = gymnasium.spec(env_id).entry_point
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    parameters = inspect.signature(creator).parameters  # type: ignore[arg-type]
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        own = [name for name in parameters if name != "self"]
        known = [*own, *(name for name in inspect.signature(gymnasium.make).parameters if name not in ("id", "kwargs"))]
        check_known(f"argument of {env_id} in `env_kwargs`", arguments, known)


def _initial_value(schedule: Any) -> Any:
    """The number that a schedule begins with, or what is not one as it is."""
    if not str(schedule).startswith(SCHEDULE):
        return schedule
    number = as_number(schedule.removeprefix(SCHEDULE))
    return schedule if number is None else number

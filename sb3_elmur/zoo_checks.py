"""What a YAML file of rl_zoo3 says about recurrent PPO, checked: each error names the key and what is allowed."""

from typing import Any

from sb3_contrib import RecurrentPPO

from sb3_elmur.typed import argument_types, as_number, check_known, check_type

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


def check_settings(algorithm: type[RecurrentPPO], settings: dict[str, Any]) -> None:
    """
    Check what a YAML file, or the command line, says of one environment.

    :param algorithm: Class to be trained.
    :param settings: Values by name.
    :raises ValueError: If a name is unknown or missing, or a value of the wrong type.
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


def check_policy_arguments(algorithm: type[RecurrentPPO], policy: str | type, arguments: dict[str, Any]) -> None:
    """
    Check names and types of the arguments of a policy; it checks their ranges itself.

    :param algorithm: Class that knows policies by name.
    :param policy: Such a name, or a class.
    :param arguments: Values by name.
    :raises ValueError: If the policy or a name is unknown, or a value of the wrong type.
    """
    if isinstance(policy, str):
        check_known("policy", [policy], sorted(algorithm.policy_aliases))
        policy = algorithm.policy_aliases[policy]
    types = argument_types(policy, SET_BY_ALGORITHM)
    check_known(f"argument of {policy.__name__} in `policy_kwargs`", arguments, sorted(types))
    for name, value in arguments.items():
        check_type(f"`{name}`", value, types[name])


def _initial_value(schedule: Any) -> Any:
    """The number that a schedule begins with, or what is not one as it is."""
    if not str(schedule).startswith(SCHEDULE):
        return schedule
    number = as_number(schedule.removeprefix(SCHEDULE))
    return schedule if number is None else number

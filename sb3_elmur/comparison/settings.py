"""Hyper-parameters of one agent in one environment: those of ``zoo_configs``, and what the matrix says instead."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sb3_elmur.comparison.algorithm import Algorithm
from sb3_elmur.comparison.algorithms import ALGORITHMS
from sb3_elmur.comparison.matrix import Agent, Environment, Matrix
from sb3_elmur.settings import as_literal, check_known, check_type, find_settings, read_settings, with_classes
from sb3_elmur.zoo.checks import SCHEDULES, check_env_arguments, check_schedule

AS_LITERAL = ("policy_kwargs", "normalize")  # text is Python, as rl_zoo3 has it


def find_algorithm(matrix: Matrix, agent: Agent) -> Algorithm:
    """
    Find what trains an agent.

    :raises ValueError: If the agent names one that does not exist.
    """
    known = ALGORITHMS[matrix.kind]
    if agent.algo is not None and agent.algo not in known:
        raise ValueError(f"`algo` of agent {agent.name!r} must be one of {', '.join(known)}. Received {agent.algo!r}.")
    return known[agent.algo or next(iter(known))]


def resolve(matrix: Matrix, env: Environment, agent: Agent) -> dict[str, Any]:
    """
    Complete and checked hyper-parameters.

    Those of the file, of the matrix and of the environment are for all agents: each algorithm and each policy picks those
    that it takes, and each must be known to one of them. Those of the agent must be its own.

    :param matrix: Whose settings count less than those of ``env``, and these less than those of ``agent``.
    :param env: Where it is trained.
    :param agent: Who is trained.
    :raises ValueError: If a key is unknown, or a value of the wrong type or outside its range.
    """
    algorithm = find_algorithm(matrix, agent)
    where = f"Agent {agent.name!r} in {env.env_id}"
    if algorithm.settings_file is None:
        check_known(f"key of agent {agent.name!r}", agent.settings, [])
        return {}
    hints = algorithm.hints()
    shared = _merge([algorithm.recipe, _settings_of(algorithm.settings_file, env.env_id), matrix.settings, env.settings])
    own = _merge([agent.settings])
    _check_shared(matrix, env, shared)
    if env.demonstrations is not None:
        check_env_arguments(env.env_id, env.demonstrations.env_kwargs)
    check_known(f"key of agent {agent.name!r}", own, hints)
    shared = {name: value for name, value in shared.items() if name in hints}
    shared.update(algorithm.defaults)
    settings = _merge([shared, own])
    for name, value in settings.items():
        if name in SCHEDULES:
            check_schedule(f"`{name}` of {where}", value, SCHEDULES[name])
        else:
            check_type(f"`{name}` of {where}", value, hints[name])
    policy_hints = algorithm.policy_hints(settings)
    check_known(f"key in `policy_kwargs` of agent {agent.name!r}", own.get("policy_kwargs") or {}, policy_hints)
    policy_kwargs = with_classes(settings.get("policy_kwargs") or {})
    taken = {name: value for name, value in policy_kwargs.items() if name in policy_hints}
    for name, value in taken.items():
        check_type(f"`{name}` of {where}", value, policy_hints[name])
    settings["policy_kwargs"] = taken
    try:
        check_env_arguments(env.env_id, settings.get("env_kwargs") or {})
        algorithm.check(settings)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return settings


def _check_shared(matrix: Matrix, env: Environment, shared: Mapping[str, Any]) -> None:
    """
    Check names that are for all agents: one of the algorithms must know them, or the policy that it has here.

    So it does not matter which agents are selected.

    :raises ValueError: If none does.
    """
    algorithms = [algorithm for algorithm in ALGORITHMS[matrix.kind].values() if algorithm.settings_file is not None]
    check_known(
        f"key in the settings of {env.env_id}",
        shared,
        dict.fromkeys(name for algorithm in algorithms for name in algorithm.hints()),
    )
    for name, hint in (("policy", str), ("policy_kwargs", dict[str, Any] | None)):
        if name in shared:
            check_type(f"`{name}` of {env.env_id}", shared[name], hint)
    arguments: dict[str, Any] = {}
    for algorithm in algorithms:
        levels = [_found(algorithm.settings_file, env.env_id)[1], matrix.settings, env.settings, algorithm.defaults]
        arguments |= algorithm.policy_hints(_merge(levels))
    check_known(f"key in `policy_kwargs` of {env.env_id}", shared.get("policy_kwargs") or {}, sorted(arguments))


_found = cache(find_settings)
_settings_of = cache(read_settings)  # which says aloud, once, where an environment has none of its own


def _merge(levels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Later ones count more; what is a mapping in both, such as ``policy_kwargs``, is merged too."""
    merged: dict[str, Any] = {}
    for level in levels:
        for name, value in level.items():
            value = as_literal(name, value) if name in AS_LITERAL else value
            both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
            merged[name] = {**merged[name], **value} if both else value
    return merged

"""Hyper-parameters of one agent in one environment: those of ``zoo_configs``, and what the matrix says instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from torch import nn

from compare.algorithm import Algorithm
from compare.algorithms import ALGORITHMS
from compare.matrix import Agent, Environment, Matrix
from compare.online import SCHEDULES
from sb3_elmur.settings import check_known, check_type

EVALUATED = ("policy_kwargs", "normalize")  # strings are Python, as rl_zoo3 has it


def find_algorithm(matrix: Matrix, agent: Agent) -> Algorithm:
    """
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
    shared = _merge([_settings_of(algorithm.settings_file, env.env_id), matrix.settings, env.settings])
    own = _merge([agent.settings])
    _check_shared(matrix, env, shared)
    check_known(f"key of agent {agent.name!r}", own, hints)
    shared = {name: value for name, value in shared.items() if name in hints}
    shared.update(algorithm.defaults)
    settings = _merge([shared, own])
    for name, value in settings.items():
        if not (name in SCHEDULES and isinstance(value, str)):
            check_type(f"`{name}` of {where}", value, hints[name])
    policy_hints = algorithm.policy_hints(settings)
    check_known(f"key in `policy_kwargs` of agent {agent.name!r}", own.get("policy_kwargs") or {}, policy_hints)
    taken = {name: value for name, value in (settings.get("policy_kwargs") or {}).items() if name in policy_hints}
    for name, value in taken.items():
        check_type(f"`{name}` of {where}", value, policy_hints[name])
    settings["policy_kwargs"] = taken
    try:
        algorithm.check(settings)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return settings


def _check_shared(matrix: Matrix, env: Environment, shared: Mapping[str, Any]) -> None:
    """
    Check names that are for all agents: one of the algorithms must know them, or the policy that it has here. So it does not
    matter which agents are selected.

    :raises ValueError: If none does.
    """
    algorithms = [algorithm for algorithm in ALGORITHMS[matrix.kind].values() if algorithm.settings_file is not None]
    check_known(
        f"key in the settings of {env.env_id}", shared, dict.fromkeys(name for each in algorithms for name in each.hints())
    )
    for name, hint in (("policy", str), ("policy_kwargs", dict[str, Any] | None)):
        if name in shared:
            check_type(f"`{name}` of {env.env_id}", shared[name], hint)
    arguments: dict[str, Any] = {}
    for algorithm in algorithms:
        file = _read(algorithm.settings_file)
        if env.env_id in file or "default" in file:
            common = _merge(
                [_settings_of(algorithm.settings_file, env.env_id), matrix.settings, env.settings, algorithm.defaults]
            )
            arguments |= algorithm.policy_hints(common)
    check_known(f"key in `policy_kwargs` of {env.env_id}", shared.get("policy_kwargs") or {}, sorted(arguments))


@cache
def _read(file: str) -> dict[str, Any]:
    return yaml.safe_load(files("sb3_elmur.zoo_configs").joinpath(file).read_text())


def _settings_of(file: str, env_id: str) -> dict[str, Any]:
    """
    :raises ValueError: If there are none.
    """
    found = _read(file)
    settings = found.get(env_id, found.get("default"))
    if settings is None:
        raise ValueError(f"zoo_configs/{file} has no settings for {env_id}, and no `default`. It has {', '.join(found)}.")
    return settings


def _merge(levels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Later ones count more; what is a mapping in both, such as ``policy_kwargs``, is merged too."""
    merged: dict[str, Any] = {}
    for level in levels:
        for name, value in level.items():
            if name in EVALUATED and isinstance(value, str):
                value = eval(value, {"dict": dict, "nn": nn})
            both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
            merged[name] = {**merged[name], **value} if both else value
    return merged

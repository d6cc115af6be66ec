"""Policy classes by the names that YAML files use, and what their constructors take."""

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from sb3_elmur.settings import argument_types, find_class
from sb3_elmur.zoo.checks import SET_BY_ALGORITHM


def find_policy(name: str, model_class: type[BaseAlgorithm]) -> type[BasePolicy]:
    """
    Find a policy class.

    :param name: An alias of the algorithm, or a dotted path.
    :param model_class: The algorithm.
    :raises ValueError: If there is no such policy.
    """
    policy = find_class(name, BasePolicy) if "." in name else model_class.policy_aliases.get(name)
    if policy is None:
        known = ", ".join(model_class.policy_aliases)
        raise ValueError(f"`policy` must be one of {known}, or the dotted path of a policy. Received {name!r}.")
    return policy


def policy_hints(policy: type[BasePolicy]) -> dict[str, Any]:
    """Annotations of the ``policy_kwargs`` of a policy class."""
    return argument_types(policy, SET_BY_ALGORITHM)

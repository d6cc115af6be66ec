"""Policy classes by the names that YAML files use, and what their constructors take."""

from collections.abc import Container, Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.ppo import POLICY_DEFAULTS, RecurrentPPO
from sb3_elmur.settings import argument_defaults, argument_types, find_class
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


def policy_defaults(policy: type[BasePolicy], model_class: type[BaseAlgorithm]) -> dict[str, Any]:
    """What the ``policy_kwargs`` of a policy class are under an algorithm where nobody gives them."""
    ours = issubclass(model_class, RecurrentPPO) and issubclass(policy, ElmurPolicy)
    defaults = argument_defaults(policy) | (POLICY_DEFAULTS if ours else {})
    return without(defaults, SET_BY_ALGORITHM)


def without(values: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    """Values by name, but for some names."""
    return {name: value for name, value in values.items() if name not in names}

"""
The spaces that the policies take: checked when a policy is built, and counted from 0 where they begin elsewhere.

What is observed are arrays, or dictionaries of arrays for Dict spaces; :func:`map_observations` does the same to both.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor, nn


def map_observations(function: Callable[..., Any], *observations: Any) -> Any:
    """
    Apply a function to observations, or to each entry of Dict observations.

    :param function: Takes as many arrays as there are ``observations``.
    :param observations: Arrays, or dictionaries that all have the keys of the first.
    :return: What the function returns, or a dictionary of it by key.
    """
    first = observations[0]
    if isinstance(first, dict):
        return {key: function(*(observation[key] for observation in observations)) for key in first}
    return function(*observations)


def as_dict(observation: Any) -> dict[str, Any]:
    """A Dict observation as it is, any other under the name ``observation``."""
    return observation if isinstance(observation, dict) else {"observation": observation}


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Refuse spaces that would fail in training, or train something else than they say.

    :param observation_space: What the policy observes.
    :param action_space: What it chooses from.
    :raises ValueError: With the space and what to use instead.
    """
    observed = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
    if not observed:
        _refuse("observation_space", observation_space, "have at least one key")
    for key, space in observed.items():
        if isinstance(observation_space, spaces.Dict) and (not key or "." in key or hasattr(nn.ModuleDict, key)):
            allowed = "have keys that can name modules: not empty, without a dot, no attribute of torch.nn.ModuleDict"
            _refuse("observation_space", repr(key), allowed)
        name = f"observation_space[{key!r}]" if isinstance(observation_space, spaces.Dict) else "observation_space"
        _check_sizes(name, space)
        if isinstance(space, spaces.Box) and not space.shape:
            _refuse(name, space, "have a shape; a single number is a Box of the shape (1,)")
    _check_sizes("action_space", action_space)
    if isinstance(action_space, spaces.Box) and not np.issubdtype(action_space.dtype, np.floating):
        _refuse("action_space", f"{action_space} of {action_space.dtype}", "be a Box of floats; integers are a MultiDiscrete")
    if isinstance(action_space, spaces.MultiBinary) and len(action_space.shape) > 1:
        _refuse("action_space", action_space, "have one dimension; flatten it")


def _check_sizes(name: str, space: spaces.Space) -> None:
    if isinstance(space, spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete) and 0 in space.shape:
        _refuse(name, space, "hold at least one number")
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) > 1:
        _refuse(name, space, "have one dimension; flatten it")


def _refuse(name: str, received: object, allowed: str) -> None:
    raise ValueError(f"`{name}` must {allowed}. Received {received}.")


def choices(space: spaces.Space) -> list[int] | None:
    """
    Count the choices of each entry of an action.

    :param space: Any space.
    :return: One number for Discrete, one for each entry of MultiDiscrete and MultiBinary; ``None`` for other spaces.
    """
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.flat]
    if isinstance(space, spaces.MultiBinary):
        return [2] * int(np.prod(space.shape))
    return None


def first_choices(sizes: list[int]) -> np.ndarray:
    """
    Find where the choices of each entry of an action begin, if they stand one after another.

    :param sizes: Number of choices of each entry, see :func:`choices`.
    :return: (entries,).
    """
    return np.cumsum([0, *sizes[:-1]])


def shifts(space: spaces.Space) -> Any:
    """
    Tell where discrete values begin: networks count from 0, an environment from ``start``.

    :param space: Any space.
    :return: First and last value, or arrays of them for MultiDiscrete; ``None`` if there is nothing to shift; by key for Dict.
    """
    if isinstance(space, spaces.Dict):
        return {key: shifts(entry) for key, entry in space.items()}
    if not np.any(getattr(space, "start", 0)):
        return None
    count = space.n if isinstance(space, spaces.Discrete) else space.nvec  # type: ignore[attr-defined]
    return space.start, space.start + count - 1  # type: ignore[attr-defined]


def from_zero(values: Any, shift: Any) -> Any:
    """
    Count discrete values from 0.

    :param values: Tensor (B, ...), or a dictionary of tensors for Dict observations.
    :param shift: Of their space, see :func:`shifts`.
    :return: As ``values``.
    :raises ValueError: If a value lies outside of the space.
    """
    return map_observations(_from_zero, values, shift)


def _from_zero(values: Tensor, shift: Any) -> Tensor:
    if shift is None:
        return values
    first, last = (th.as_tensor(bound, device=values.device) for bound in shift)
    inside = values.clamp(first, last)
    # sb3-contrib pads minibatches with 0, which may lie outside of the space
    if not th.compiler.is_compiling() and bool(((values != inside) & (values != 0)).any()):
        wrong = values[(values != inside) & (values != 0)][0].item()
        raise ValueError(f"Discrete values must lie in their space, from {shift[0]} to {shift[1]}. Received {wrong:g}.")
    return inside - first


def to_space(values: Tensor, shift: Any) -> Tensor:
    """
    Undo :func:`from_zero`.

    :param values: Tensor (B, ...), counted from 0.
    :param shift: Of the space, see :func:`shifts`.
    :return: Values of the space.
    """
    return values if shift is None else values + th.as_tensor(shift[0], device=values.device)

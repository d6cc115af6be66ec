"""Observations are arrays, or dictionaries of arrays for Dict spaces: one way to do the same to both."""

from collections.abc import Callable
from typing import Any


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

"""What the arrays of an episode must be to belong to an environment's spaces."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_elmur.spaces import choices, first_choices

LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
NUMBER = spaces.Box(-np.inf, np.inf, ())
NOT_OBSERVED = ("action", "reward", "success", "done")
MASK = "action_mask"


class DataError(ValueError):
    """Data that cannot be used. The message names file and key, what was found, and what is allowed."""


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn whatever zipfile, numpy and Minari raise on damaged data into a :class:`DataError`."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{what} cannot be read. {type(error).__name__}: {error}") from error


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Put the source before the message of a :class:`DataError`."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{source}: {error}") from error.__cause__


@dataclass(frozen=True)
class Field:
    """
    An array of an episode, and what its space demands of each of its T rows.

    :param key: Name of the array.
    :param space: Box, Discrete, MultiDiscrete or MultiBinary.
    :param clip: Whether to clip to the bounds of a Box, which are ignored otherwise.
    """

    key: str
    space: spaces.Space
    clip: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return tuple(self.space.shape or ())

    @property
    def dtype(self) -> np.dtype:
        """What arrays are converted to."""
        return np.dtype(self.space.dtype)

    def check_header(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """
        Check shape and type of a stored array.

        :param shape: Of the stored array.
        :param dtype: Of the stored array.
        :raises DataError: If no array of that kind can belong to the space.
        """
        if not shape or shape[1:] != self.shape:
            expected = ", ".join(("T", *map(str, self.shape))) + ("" if self.shape else ",")
            raise DataError(f"`{self.key}` must have the shape ({expected}). Found {shape}.")
        if shape[0] < 1:
            raise DataError(f"`{self.key}` must have at least one step. Found shape {shape}.")
        floating = self.dtype.kind == "f"
        if dtype.kind not in ("fiub" if floating else "iub"):
            allowed = "floating-point or integer" if floating else "integer"
            raise DataError(f"`{self.key}` must hold {allowed} numbers, to become {self.dtype}. Found {dtype}.")

    def convert(self, array: np.ndarray) -> np.ndarray:
        """
        Convert a stored array to the space's type, and check its numbers.

        :param array: Of a shape and dtype that :meth:`check_header` accepts.
        :return: The same in the space's dtype, clipped if it is to be.
        :raises DataError: If a number is not finite in this dtype, is an integer that the dtype cannot hold exactly, or does
            not belong to a discrete space.
        """
        fits = isinstance(self.space, spaces.Box) and np.can_cast(array.dtype, self.dtype)
        if array.dtype.kind != "f" and not fits:
            low, high = self._integers()
            self._require((array >= low) & (array <= high), array, f"lie between {low} and {high}")
        with np.errstate(over="ignore"):
            converted = array.astype(self.dtype, order="C", copy=False)
        if self.dtype.kind == "f":
            self._require(np.isfinite(converted), array, f"be finite in {self.dtype}")
        if self.clip and isinstance(self.space, spaces.Box):
            converted = np.clip(converted, self.space.low, self.space.high)
        return converted

    def _integers(self) -> tuple[Any, Any]:
        """The smallest and the largest integer that may be stored."""
        if isinstance(self.space, spaces.Discrete):
            return self.space.start, self.space.start + self.space.n - 1
        if isinstance(self.space, spaces.MultiDiscrete):
            return self.space.start, self.space.start + self.space.nvec - 1
        if isinstance(self.space, spaces.MultiBinary) or self.dtype.kind == "b":
            return 0, 1
        if self.dtype.kind == "f":
            exact = 2 ** (np.finfo(self.dtype).nmant + 1)
            return -exact, exact
        return np.iinfo(self.dtype).min, np.iinfo(self.dtype).max

    def _require(self, good: np.ndarray, array: np.ndarray, what: str) -> None:
        if not good.all():
            index = tuple(int(i) for i in np.argwhere(~good)[0])
            raise DataError(f"`{self.key}` must {what}. Found {array[index]} at index {index}.")


def episode_fields(observation_space: spaces.Space, action_space: spaces.Space) -> list[Field]:
    """
    The arrays of an episode: those of the observation, then ``action``, then ``reward``.

    :param observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these.
    :param action_space: Box, Discrete, MultiDiscrete or MultiBinary.
    :raises ValueError: If a space is another one, or a key of the Dict is taken.
    """
    observed = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"observation": observation_space}
    taken = sorted(set(observed) & set(NOT_OBSERVED))
    if taken:
        raise ValueError(f"`observation_space` must not have the keys {', '.join(NOT_OBSERVED)}. Received {', '.join(taken)}.")
    for name, space in (*(("observation_space", space) for space in observed.values()), ("action_space", action_space)):
        if not isinstance(space, LEAVES):
            kinds = ", ".join(kind.__name__ for kind in LEAVES) + (", or a Dict of these" if name != "action_space" else "")
            raise ValueError(f"`{name}` must be a {kinds}. Received {type(space).__name__}.")
    observations = [Field(key, space) for key, space in observed.items()]
    return [*observations, Field("action", action_space, clip=True), Field("reward", NUMBER)]


def mask_field(observation_space: spaces.Space, action_space: spaces.Space) -> Field | None:
    """
    The array ``action_mask``, which an episode may have beside its others.

    :param observation_space: See :func:`episode_fields`.
    :param action_space: See :func:`episode_fields`.
    :return: The field; ``None`` for continuous actions, and where an observation has this key.
    """
    sizes = choices(action_space)
    observed = isinstance(observation_space, spaces.Dict) and MASK in observation_space.spaces
    return None if sizes is None or observed else Field(MASK, spaces.MultiBinary(sum(sizes)))


def check_valid(actions: np.ndarray, masks: np.ndarray, action_space: spaces.Space) -> None:
    """
    Check that masks allow the actions that were recorded with them.

    :param actions: (T, ...).
    :param masks: (T, n).
    :param action_space: Discrete, MultiDiscrete or MultiBinary.
    :raises DataError: If one does not.
    """
    entries = (actions - getattr(action_space, "start", 0)).reshape(len(actions), -1).astype(np.int64)  # (T, entries)
    places = entries + first_choices(choices(action_space) or [])
    valid = np.take_along_axis(masks.astype(bool), places, axis=1).all(1)
    if not valid.all():
        step = int(np.argmin(valid))
        raise DataError(f"`{MASK}` must allow the action of its step. Found {actions[step]} at index {step}.")

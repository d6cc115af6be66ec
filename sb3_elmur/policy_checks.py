"""What users hand to a policy, checked: each error names the argument, what was received and what is allowed."""

import difflib
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from sb3_elmur.core.states import CoreState

T = TypeVar("T")
_LSTM_ARGUMENTS = ("lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm", "lstm_kwargs")


def shows_fields_of(config: type) -> Callable[[type[T]], type[T]]:
    """
    Let ``help`` and ``inspect.signature`` show the fields of a dataclass in place of a constructor's ``**`` argument.

    :param config: The dataclass; the ``:param:`` lines of its docstring are shown too.
    :return: A decorator of classes, whose docstrings explain the ``**`` argument in one line.
    """

    def decorate(cls: type[T]) -> type[T]:
        constructor: Any = cls.__init__
        signature = inspect.signature(constructor)
        *named, collected = signature.parameters.values()
        shown = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in fields(config)
        ]
        constructor.__signature__ = signature.replace(parameters=[*named, *shown])
        constructor.__annotations__ |= {field.name: field.type for field in fields(config)}
        lines = inspect.getdoc(config) or ""
        explained = lines[lines.index(":param") : lines.index(":raises")].strip()
        doc = inspect.getdoc(cls) or ""
        cls.__doc__ = re.sub(rf"^:param {collected.name}:.*$", lambda _: explained, doc, flags=re.MULTILINE)
        return cls

    return decorate


def refuse_unknown_arguments(cls: type, arguments: dict[str, Any]) -> None:
    """
    Refuse the first keyword argument that a policy class does not know.

    :param cls: The class, as :func:`shows_fields_of` left it.
    :param arguments: What its constructor collected.
    :raises TypeError: With the argument that was probably meant.
    """
    known = list(inspect.signature(cls).parameters)
    for name in arguments:
        if name in known:
            continue
        if name in _LSTM_ARGUMENTS:
            hint = "It belongs to sb3-contrib's LSTM policies; see `core`, `d_model`, `n_layers`, `separate_critic`."
        else:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean `{close[0]}`?" if close else f"Known arguments: {', '.join(known)}."
        raise TypeError(f"{cls.__name__} has no argument `{name}`. {hint}")


def as_dict(observation: Any) -> dict[str, Any]:
    """A Dict observation as it is, any other under the name ``observation``."""
    return observation if isinstance(observation, dict) else {"observation": observation}


def check_finite(observation: np.ndarray | dict[str, np.ndarray]) -> None:
    """
    :param observation: Observations, which the policy will convert to float32.
    :raises ValueError: If one is not finite then.
    """
    for name, value in as_dict(observation).items():
        array = np.asarray(value)
        if not np.issubdtype(array.dtype, np.floating):
            continue
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32))
        if not finite.all():
            index = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(f"`{name}` must be finite in float32. Received {array[index]} at index {index}.")


def check_episode_start(episode_start: Tensor, n_envs: int) -> None:
    """
    :param episode_start: Where episodes begin.
    :param n_envs: Number of observations.
    :raises ValueError: If there is not one flag for each observation.
    """
    if episode_start.shape != (n_envs,):
        raise ValueError(f"`episode_start` must have the shape ({n_envs},). Received {tuple(episode_start.shape)}.")


def check_pair(state: Any) -> None:
    """
    :param state: Given to ``predict``.
    :raises ValueError: If it is neither ``None`` nor a pair of arrays.
    """
    if state is None or (isinstance(state, tuple | list) and [isinstance(part, np.ndarray) for part in state] == [True] * 2):
        return
    raise ValueError(f"`state` must be what `predict` returned, a pair of arrays. Received {state!r:.80}.")


def check_packed_state(pair: tuple[np.ndarray, ...], shape: tuple[int, int, int]) -> None:
    """
    :param pair: Packed state given to ``predict``.
    :param shape: Of each half, (1, n_envs, hidden_size).
    :raises ValueError: If it is that of other environments or of another policy.
    """
    received = [tuple(part.shape) for part in pair]
    if received != [shape, shape]:
        raise ValueError(
            f"`state` must be what `predict` returned for {shape[1]} environment(s), two arrays of shape {shape}. "
            f"Received shapes {received}."
        )


def check_step_state(state: Any, shape: tuple[int, ...]) -> None:
    """
    :param state: Given to ``step``.
    :param shape: Of its slots, (n_envs, N, M, D).
    :raises ValueError: If it is that of other environments or of another policy.
    """
    received = tuple(state.memory.slots.shape) if isinstance(state, CoreState) else type(state).__name__
    if received != shape:
        raise ValueError(
            f"`state` must be what `step` returned for {shape[0]} environment(s), with slots of shape {shape}. "
            f"Received {received}."
        )

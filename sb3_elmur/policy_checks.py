"""What users hand to a policy, checked: each error names the argument, what was received and what is allowed."""

import difflib
import inspect
from typing import Any

import numpy as np
from torch import Tensor

from sb3_elmur.core.elmur import CoreState

_LSTM_ARGUMENTS = ("lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm", "lstm_kwargs")


def refuse_unknown_arguments(cls: type, unknown: dict[str, Any]) -> None:
    """
    Refuse the first of the keyword arguments that a policy class does not know.

    :param cls: The class, whose constructor collects them as ``**unknown``.
    :param unknown: What it collected.
    :raises TypeError: With the argument that was probably meant.
    """
    known = [name for name in inspect.signature(cls).parameters if name != "unknown"]
    for name in unknown:
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

"""What a policy is called with, checked: each error names the argument, what was received and what is allowed."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor

from sb3_elmur.core.states import CoreState
from sb3_elmur.spaces import as_dict


def check_recurrent(cls: type, states: object) -> None:
    """
    Refuse algorithms that know of no recurrent state.

    :param cls: The policy's class.
    :param states: What the algorithm gave as states.
    :raises TypeError: If it gave none.
    """
    if states is None:
        raise TypeError(f"{cls.__name__} has a recurrent state: train it in sb3_elmur.RecurrentPPO, or in sb3_contrib's.")


def check_host_actions(action_space: spaces.Space, squash_output: bool) -> None:
    """
    Refuse squashed actions that sb3-contrib's class would send to the environment without rescaling them.

    :param action_space: The policy's.
    :param squash_output: Whether actions are squashed to [-1, 1].
    :raises ValueError: If they are, and the environment's have other bounds.
    """
    if squash_output and isinstance(action_space, spaces.Box):
        if (action_space.low == -1).all() and (action_space.high == 1).all():
            return
        raise ValueError(
            "`squash_output=True` needs actions in [-1, 1] in sb3_contrib.RecurrentPPO, which does not rescale them. "
            f"Received {action_space}: use sb3_elmur.RecurrentPPO."
        )


def check_observation(observation: Any) -> None:
    """
    Refuse observations that a policy cannot act on.

    :param observation: What ``predict`` or ``step`` received, which the policy will convert to float32.
    :raises ValueError: If it is a pair of observation and info, as Gymnasium's ``reset`` returns, or not finite in float32.
    """
    if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
        raise ValueError(
            "`observation` must be an array or a dictionary. Received a tuple of observation and info: you are mixing Gym API "
            "(`observation, info = env.reset()`) with SB3's VecEnv API (`observation = env.reset()`)."
        )
    for name, value in as_dict(observation).items():
        array = np.asarray(value)
        if not array.size:
            raise ValueError(f"`{name}` must hold at least one number. Received the shape {array.shape}.")
        if not np.issubdtype(array.dtype, np.floating):
            continue
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32))
        if not finite.all():
            index = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(f"`{name}` must be finite in float32. Received {array[index]} at index {index}.")


def as_episode_start(episode_start: Any, n_envs: int) -> Tensor:
    """
    Flags of where episodes begin.

    :param episode_start: One flag for each environment, a single one if there is one environment, or ``None`` for nowhere.
    :param n_envs: Number of observations.
    :return: (n_envs,).
    :raises ValueError: If there is not one flag for each observation.
    """
    if episode_start is None:
        return th.zeros(n_envs, dtype=th.bool)
    starts = th.as_tensor(np.asarray(episode_start))
    if n_envs == 1 and starts.dim() == 0:
        starts = starts[None]
    if starts.shape != (n_envs,):
        raise ValueError(f"`episode_start` must have the shape ({n_envs},). Received {tuple(starts.shape)}.")
    return starts


def as_pair(state: Any) -> tuple[np.ndarray, ...] | None:
    """
    The packed state given to ``predict`` as arrays.

    :param state: A pair of arrays, lists or tensors, or ``None``.
    :return: The same object if it is a tuple of arrays.
    :raises ValueError: If it is something else.
    """
    if state is None:
        return None
    if isinstance(state, tuple) and len(state) == 2 and all(isinstance(part, np.ndarray) for part in state):
        return state
    try:
        hidden, cell = (np.asarray(part.cpu() if isinstance(part, Tensor) else part, dtype=np.float32) for part in state)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`state` must be what `predict` returned, a pair of arrays. Received {state!r:.80}.") from error
    return hidden, cell


def check_packed_state(pair: tuple[np.ndarray, ...], shape: tuple[int, int, int]) -> None:
    """
    Refuse a packed state that does not fit.

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
    Refuse a state that does not fit.

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

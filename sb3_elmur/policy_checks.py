"""What users hand to a policy, checked: each error names the argument, what was received and what is allowed."""

import copy
import difflib
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from torch import Tensor, nn

from sb3_elmur.core.states import CoreState
from sb3_elmur.spaces import as_dict

T = TypeVar("T")
_LSTM_ARGUMENTS = ("lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm", "lstm_kwargs")
_OF_TRAINING = ("bptt_segments", "trust_region", "averaging", "scale_rewards")


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
        elif name in _OF_TRAINING:
            hint = "It is an argument of sb3_elmur.RecurrentPPO, beside `policy_kwargs`."
        else:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean `{close[0]}`?" if close else f"Known arguments: {', '.join(known)}."
        raise TypeError(f"{cls.__name__} has no argument `{name}`. {hint}")


def check_flags(**flags: object) -> None:
    """
    Refuse flags that are something else.

    :param flags: Arguments by name.
    :raises ValueError: If one is neither True nor False.
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"`{name}` must be True or False. Received {flag!r}.")


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


def check_squashing(squash_output: bool, use_sde: bool) -> None:
    """
    Refuse squashed actions without gSDE, whose noise alone the host squashes.

    :param squash_output: Whether actions are squashed to [-1, 1].
    :param use_sde: Whether their noise is gSDE's.
    :raises ValueError: If they are squashed and it is not.
    """
    if squash_output and not use_sde:
        raise ValueError("`squash_output=True` needs `use_sde=True`, an argument of the algorithm. Received `use_sde=False`.")


def unsuited_extractor(cls: type, observation_space: spaces.Space, error: Exception) -> ValueError:
    """
    Say which other features extractors there are.

    :param cls: The features extractor that could not be built.
    :param observation_space: For which.
    :param error: Why not.
    :return: What to raise.
    """
    reason = str(error).splitlines()[0].rstrip(".")
    return ValueError(
        f"`features_extractor_class` must take {observation_space}. Received {cls.__name__}: {reason}. ElmurPolicy takes "
        "vectors; sb3_elmur.encoders.FourLayerCNN, and FourLayerExtractor for Dict observations, take images of any size."
    )


def check_sharing(share_features_extractor: bool, separate_critic: bool) -> None:
    """
    Refuse two features extractors for one stack.

    :param share_features_extractor: Whether there is one.
    :param separate_critic: Whether there are two stacks.
    :raises ValueError: If there are two extractors and one stack.
    """
    if not share_features_extractor and not separate_critic:
        raise ValueError("`share_features_extractor=False` needs `separate_critic=True`. Received `separate_critic=False`.")


def check_policy_class(cls: type, takes_dict: bool, observation_space: spaces.Space) -> None:
    """
    Refuse a policy class whose default features extractor is for other observations.

    :param cls: The class.
    :param takes_dict: Whether it is for Dict observations.
    :param observation_space: What it is to observe.
    :raises ValueError: With the class to use.
    """
    if isinstance(observation_space, spaces.Dict) != takes_dict:
        kind = type(observation_space).__name__
        suited = "ElmurPolicy or ElmurCnnPolicy" if takes_dict else "ElmurMultiInputPolicy"
        raise ValueError(f"{cls.__name__} does not take {kind} observations. Use {suited}.")


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


def without_graph(distribution: Any) -> Any:
    """
    Copy a distribution of actions without the graph that its tensors hang on.

    :param distribution: Of Stable-Baselines3 or of PyTorch, or what these consist of.
    :return: The copy; what is no tensor is shared.
    """
    if isinstance(distribution, Tensor):
        return distribution.detach()
    if isinstance(distribution, list):
        return [without_graph(part) for part in distribution]
    if isinstance(distribution, Distribution | th.distributions.Distribution):
        copied = copy.copy(distribution)
        vars(copied).update({name: without_graph(part) for name, part in vars(distribution).items()})
        return copied
    return distribution


def check_rewards(rewards: np.ndarray, n_steps: int) -> None:
    """
    Check that all rewards are finite.

    :param rewards: Of each environment, (B,).
    :param n_steps: Steps so far, for the message.
    :raises FloatingPointError: If one is not, with the environment's number.
    """
    finite = np.isfinite(rewards)
    if not finite.all():
        env = int(np.flatnonzero(~finite)[0])
        raise FloatingPointError(
            f"Rewards must be finite. Received {rewards[env]} from environment {env}, within {n_steps} steps."
        )


def check_weights(policy: nn.Module, when: str) -> None:
    """
    Check that all weights are finite.

    :param policy: The policy.
    :param when: When they are looked at, for the message.
    :raises FloatingPointError: If one is not, with its name.
    """
    for name, parameter in policy.named_parameters():
        if not parameter.isfinite().all():
            raise FloatingPointError(
                f"Weights must be finite. Those of `{name}` are not {when}. "
                "Lower `learning_rate`, or look for large rewards and observations."
            )

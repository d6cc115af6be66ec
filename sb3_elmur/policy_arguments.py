"""What a policy is built with, shown and checked: each error names the argument, what was received and what is allowed."""

import difflib
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from gymnasium import spaces

from sb3_elmur.core.arguments import check_count

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


def refuse_unknown_arguments(cls: type, base: type, arguments: dict[str, Any]) -> None:
    """
    Refuse the first keyword argument that a policy class does not know.

    :param cls: The class, which may hand arguments on to ``base``.
    :param base: It, or a base class, as :func:`shows_fields_of` left it.
    :param arguments: What the constructor of ``base`` collected.
    :raises TypeError: With the argument that was probably meant.
    """
    parameters = [*inspect.signature(cls).parameters.values(), *inspect.signature(base).parameters.values()]
    known = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
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


def check_net_arch(net_arch: object) -> None:
    """
    Refuse layers behind the stack that cannot be built, or that nothing is built of.

    :param net_arch: As for :class:`sb3_elmur.ElmurPolicy`.
    :raises ValueError: If it is neither None, nor a list of widths, nor maps "pi" and "vf" to such lists.
    """
    lists: list[Any] = list(net_arch.values()) if isinstance(net_arch, dict) else [] if net_arch is None else [net_arch]
    known = not isinstance(net_arch, dict) or net_arch.keys() <= {"pi", "vf"}
    if not known or not all(isinstance(widths, list | tuple) for widths in lists):
        raise ValueError(f"`net_arch` must be a list of widths, or map 'pi' and 'vf' to such lists. Received {net_arch!r}.")
    for widths in lists:
        for width in widths:
            check_count("net_arch", width, 1)


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

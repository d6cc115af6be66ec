"""What ``training_speed.py`` asks of everything that it trains, and the settings that all have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch as th
from torch import nn

N_STEPS = 128
N_EPOCHS = 10
LEARNING_RATE = 1e-9
PPO_ARGUMENTS: dict[str, Any] = dict(
    n_steps=N_STEPS,
    n_epochs=N_EPOCHS,
    learning_rate=LEARNING_RATE,
    gamma=0.99,
    gae_lambda=0.95,
    clip_range=0.2,
    ent_coef=0.0,
    vf_coef=0.5,
    max_grad_norm=0.5,
)


class Measurement(NamedTuple):
    """Seconds of one rollout and its update, and how many episodes began in it."""

    total: float
    rollout: float
    update: float
    episodes: int


class Contestant(Protocol):
    """Something that trains."""

    parameters: int

    def train(self, n_epochs: int | None = None) -> Measurement:
        """Collect one rollout and update on it, in as many epochs as it has, or in others."""


class Stopwatch:
    """
    Wraps a method and keeps the seconds of its last call.

    :param owner: object whose method is replaced
    :param name: name of the method
    :param synchronize: waits until the device is done
    """

    def __init__(self, owner: object, name: str, synchronize: Callable[[], None]) -> None:
        self.seconds = 0.0
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = method(*args, **kwargs)
            synchronize()
            self.seconds = time.perf_counter() - start
            return result

        setattr(owner, name, timed)


def synchronizer(device: str) -> Callable[[], None]:
    """Return a function that waits until ``device`` is done."""
    return partial(th.cuda.synchronize, device) if th.device(device).type == "cuda" else lambda: None


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)

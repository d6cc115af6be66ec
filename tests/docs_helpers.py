"""What the tests of the documentation and of the examples share."""

import inspect
from typing import Any

import pytest
import sb3_contrib

TINY_PPO = {"n_steps": 8, "batch_size": 16, "n_epochs": 1}


def shorten_ppo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every RecurrentPPO take tiny rollouts, and one update for each call of ``learn``."""
    host = sb3_contrib.RecurrentPPO
    init, learn = host.__init__, host.learn

    def tiny_init(self: Any, *arguments: Any, **kwargs: Any) -> None:
        names = list(inspect.signature(init).parameters)[1:]
        init(self, **dict(zip(names, arguments, strict=False)) | kwargs | TINY_PPO)

    monkeypatch.setattr(host, "__init__", tiny_init)
    monkeypatch.setattr(host, "learn", lambda self, total_timesteps, *rest, **kwargs: learn(self, 1, *rest, **kwargs))

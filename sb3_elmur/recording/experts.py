"""Experts to record: an environment's oracle, chance, saved models, and functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_elmur.models import find_statistics, load_model, normalized


class Model(Protocol):
    """What acts as the models of Stable-Baselines3 do."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: np.ndarray | None = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """The action for one observation, and the state for the next call."""


Expert = str | Path | Model | Callable[[Any], Any]
Act = Callable[[Any, bool], Any]


def make_act(expert: Expert, env: gymnasium.Env, device: str = "auto") -> Act:
    """
    A function from an observation, and whether it is an episode's first, to an action.

    :param expert: See :func:`sb3_elmur.recording.record.record`.
    :param env: Where it acts.
    :param device: Where a saved model runs.
    :return: The function.
    :raises ValueError: If it is no expert, or the environment has no oracle.
    """
    if expert == "oracle":
        if not env.has_wrapper_attr("oracle_action"):
            raise ValueError(f"`expert='oracle'` needs an environment with `oracle_action()`. Received {env}.")
        oracle = env.get_wrapper_attr("oracle_action")
        return lambda observation, start: oracle()
    if expert == "random":
        return lambda observation, start: env.action_space.sample()
    if isinstance(expert, str | Path) and Path(expert).is_file():
        return _follow_saved(Path(expert), env, device)
    if hasattr(expert, "predict"):
        return _follow(expert, env.action_space)
    if callable(expert):
        return lambda observation, start: expert(observation)
    raise ValueError(
        "`expert` must be 'oracle', 'random', the file of a saved model, an object with `predict` or a function. "
        f"Received {expert!r}."
    )


def _follow_saved(path: Path, env: gymnasium.Env, device: str) -> Act:
    """The actions of a saved model, which is shown observations as in training."""
    try:
        model = load_model(path, device)
    except ValueError as error:
        raise ValueError(f"`expert` must be the file of a RecurrentPPO. Load '{path}' and pass the model. {error}") from error
    act, statistics = _follow(model, env.action_space), find_statistics(path, model)
    if statistics is None:
        return act
    normalize = normalized(DummyVecEnv([lambda: env]), statistics).normalize_obs
    return lambda observation, start: act(normalize(observation), start)


def _follow(model: Model, action_space: spaces.Space) -> Act:
    """The deterministic actions of a model, which keeps its state within an episode."""
    state = None

    def act(observation: Any, start: bool) -> Any:
        nonlocal state
        before = None if start else state
        action, state = model.predict(observation, state=before, episode_start=np.array([start]), deterministic=True)
        return np.asarray(action).astype(action_space.dtype)[()]

    return act

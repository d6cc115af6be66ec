"""Experts to record: an environment's oracle, chance, saved models, and functions."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_elmur.masks import get_action_masks, has_masks, sample_valid
from sb3_elmur.models import load_model
from sb3_elmur.saved_statistics import as_in_training, find_statistics, normalized


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
            name = env.unwrapped if env.spec is None else env.spec.id
            raise ValueError(f"`expert='oracle'` needs an environment with `oracle_action()`. Received {name}.")
        oracle = env.get_wrapper_attr("oracle_action")
        return lambda observation, start: oracle()
    if expert == "random":
        return lambda observation, start: random_action(env)
    if isinstance(expert, str | Path) and Path(expert).is_file():
        return _follow_saved(Path(expert), env, device)
    if hasattr(expert, "predict"):
        return _follow(expert, env)
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
    act, statistics = _follow(model, env), find_statistics(path, model)
    as_trained = as_in_training(DummyVecEnv([lambda: env]), statistics)
    try:
        check_for_correct_spaces(as_trained, model.observation_space, model.action_space)
    except ValueError as error:
        raise ValueError(
            f"`expert` must have been trained in the spaces of the environment. Received '{path}'. {error}"
        ) from error
    if statistics is None:
        return act
    normalize = normalized(DummyVecEnv([lambda: env]), statistics).normalize_obs
    return lambda observation, start: act(normalize(observation), start)


def random_action(env: gymnasium.Env) -> Any:
    """
    Draw an action, from the valid ones where the environment has masks.

    :param env: Which takes it.
    :return: An element of its action space.
    """
    return sample_valid(env.action_space, get_action_masks(env)) if has_masks(env) else env.action_space.sample()


def _follow(model: Model, env: gymnasium.Env) -> Act:
    """The deterministic actions of a model, which keeps its state within an episode."""
    state = None
    masked = has_masks(env) and "action_masks" in inspect.signature(model.predict).parameters

    def act(observation: Any, start: bool) -> Any:
        nonlocal state
        before = None if start else state
        masks = {"action_masks": get_action_masks(env)} if masked else {}
        starts = np.array([start])
        action, state = model.predict(observation, state=before, episode_start=starts, deterministic=True, **masks)
        return np.asarray(action).astype(env.action_space.dtype)[()]

    return act

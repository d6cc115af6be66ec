"""Many environments of one id that step together."""

from typing import Any

import gymnasium
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from .tmaze_vec import TMazeVecEnv

NATIVE = {f"{__package__}.tmaze:TMazeEnv": TMazeVecEnv}


def make_batch(env_id: str, n_envs: int, env_kwargs: dict[str, Any] | None = None) -> VecEnv:
    """
    Make a native batch where the environment has one, else copies of the environment.

    :param env_id: registered id
    :param n_envs: number of environments
    :param env_kwargs: arguments beside those that the id stands for
    :raises gymnasium.error.UnregisteredEnv: if the id is unknown
    """
    spec = gymnasium.spec(env_id)
    batch_class = NATIVE.get(str(spec.entry_point))
    if batch_class and not spec.max_episode_steps and not spec.additional_wrappers:
        return batch_class(n_envs, **{**spec.kwargs, **(env_kwargs or {})})
    return make_vec_env(env_id, n_envs, env_kwargs=env_kwargs)

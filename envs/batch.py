"""Many environments of one id that step together."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from .mikasa.vec import MikasaVecEnv
from .native import NativeVecEnv
from .popgym.vec import POPGymVecEnv
from .tmaze.cues_vec import TMazeCuesVecEnv
from .tmaze.runes_vec import TMazeRunesVecEnv
from .tmaze.vec import TMazeVecEnv

NATIVE: dict[str, type[NativeVecEnv] | type[MikasaVecEnv]] = {
    f"{__package__}.tmaze:TMazeEnv": TMazeVecEnv,
    f"{__package__}.tmaze:TMazeCuesEnv": TMazeCuesVecEnv,
    f"{__package__}.tmaze:TMazeRunesEnv": TMazeRunesVecEnv,
    f"{__package__}.popgym:POPGymEnv": POPGymVecEnv,
    f"{__package__}.mikasa:MikasaEnv": MikasaVecEnv,
}


def creator_of(env_id: str) -> Any:
    """
    What makes the environments of an id, a class or a function.

    :param env_id: Registered id.
    :raises gymnasium.error.UnregisteredEnv: If the id is unknown.
    """
    entry_point = gymnasium.spec(env_id).entry_point
    return load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point


def native_batch(env_id: str, env_kwargs: dict[str, Any] | None = None) -> Callable[[int], VecEnv] | None:
    """
    Find what makes the native batch of an environment.

    :param env_id: Registered id; before a colon the module that registers it, as in ``gymnasium.make``.
    :param env_kwargs: Arguments beside those that the id stands for.
    :return: A function of the number of environments, or None where there is no native batch.
    :raises gymnasium.error.UnregisteredEnv: If the id is unknown.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_module(module)
    spec = gymnasium.spec(name)
    batch_class = NATIVE.get(str(spec.entry_point))
    arguments = {**spec.kwargs, **(env_kwargs or {})}
    wrapped = spec.max_episode_steps or spec.additional_wrappers
    if batch_class and not wrapped and batch_class.supports(**arguments):
        return partial(batch_class, **arguments)
    return None


def make_batch(env_id: str, n_envs: int, env_kwargs: dict[str, Any] | None = None) -> VecEnv:
    """
    Make a native batch where the environment has one, else copies of the environment.

    :param env_id: See :func:`native_batch`.
    :param n_envs: Number of environments.
    :param env_kwargs: Arguments beside those that the id stands for.
    :return: The batch, which tells no returns of episodes unless a ``VecMonitor`` is around it, or a ``DummyVecEnv`` of the
        copies, which does.
    :raises gymnasium.error.UnregisteredEnv: If the id is unknown.
    """
    native = native_batch(env_id, env_kwargs)
    return native(n_envs) if native else make_vec_env(env_id, n_envs, env_kwargs=env_kwargs)

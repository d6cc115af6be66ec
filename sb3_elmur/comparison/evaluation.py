"""Evaluation of models, each in the same episodes, all of them at once."""

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from sb3_elmur.comparison.algorithm import Outcomes
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.evaluation.episodes import run_episodes
from sb3_elmur.saved_statistics import as_in_training


def make_monitored(env_id: str, n_envs: int, env_kwargs: dict[str, Any] | None = None) -> VecEnv:
    """
    A batch of environments that reports the returns of its episodes to Stable-Baselines3.

    :param env_id: Registered id.
    :param n_envs: Number of environments.
    :param env_kwargs: Arguments beside those that the id stands for.
    """
    env = make_batch(env_id, n_envs, env_kwargs)
    return env if all(env.env_is_wrapped(Monitor)) else VecMonitor(env)


def evaluate_episodes(model: BaseAlgorithm, env: VecEnv, seed: int, deterministic: bool) -> Outcomes:
    """
    One episode in each environment.

    :param model: What is evaluated.
    :param env: Environments, which are seeded and reset; closed in the end.
    :param seed: Seed of the first one; the others follow, and sampled actions.
    :param deterministic: Take the most probable actions instead of sampling.
    """
    model.policy.set_training_mode(False)
    try:
        return run_episodes(model.policy, as_in_training(env, None), seed, deterministic=deterministic)  # normalised already
    finally:
        env.close()

"""Evaluation of models, each in the same episodes, all of them at once."""

from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from sb3_elmur.comparison.algorithm import Played
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.evaluation.episodes import run_episodes, successes
from sb3_elmur.models import as_in_training
from sb3_elmur.policies import ElmurPolicy


def make_monitored(env_id: str, n_envs: int, env_kwargs: dict[str, Any] | None = None) -> VecEnv:
    """
    A batch of environments that reports the returns of its episodes to Stable-Baselines3.

    :param env_id: Registered id.
    :param n_envs: Number of environments.
    :param env_kwargs: Arguments beside those that the id stands for.
    """
    env = make_batch(env_id, n_envs, env_kwargs)
    return env if all(env.env_is_wrapped(Monitor)) else VecMonitor(env)


def play(model: BaseAlgorithm, env: VecEnv, seed: int, deterministic: bool) -> Played:
    """
    One episode in each environment: natively batched for our policies, else as Stable-Baselines3 does it.

    :param model: What is evaluated.
    :param env: Environments, which are seeded and reset; closed in the end.
    :param seed: Seed of the first one; the others follow, and sampled actions.
    :param deterministic: Take the most probable actions instead of sampling.
    """
    th.manual_seed(seed)
    env = as_in_training(env, None)  # it is normalised already
    try:
        if isinstance(model.policy, ElmurPolicy):
            model.policy.set_training_mode(False)
            return run_episodes(model.policy, env, seed, deterministic=deterministic)
        env.seed(seed)
        return _play_as_sb3(model, env, deterministic)
    finally:
        env.close()


def _play_as_sb3(model: BaseAlgorithm, env: VecEnv, deterministic: bool) -> Played:
    outcomes: list[dict[str, float]] = []

    def collect(variables: dict[str, Any], _: dict[str, Any]) -> None:
        if variables["done"]:
            outcomes.append(successes(variables["info"]))

    returns, lengths = evaluate_policy(model, env, env.num_envs, deterministic, callback=collect, return_episode_rewards=True)
    assert isinstance(returns, list)
    assert isinstance(lengths, list)
    return [
        {"return": float(value), "length": int(length), **outcome}
        for value, length, outcome in zip(returns, lengths, outcomes, strict=True)
    ]

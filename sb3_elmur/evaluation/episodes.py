"""Episodes of any environment, played by a saved policy in one batch, and how sure the share of successes is."""

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_elmur.finite import check_rewards
from sb3_elmur.masks import get_action_masks, has_masks
from sb3_elmur.policies import ElmurPolicy

QUANTILE = NormalDist().inv_cdf(0.975)  # of a two-sided interval of 95%
SUCCESSES = ("is_success", "turn_success")  # what environments say at an episode's end


class Step(NamedTuple):
    """
    One step of B episodes that are played together.

    :param observations: Before the step, (B, ...), or a dictionary of such arrays.
    :param actions: (B, ...).
    :param rewards: (B,).
    :param running: Whether each episode had not ended before the step, (B,) bool; of others the step is of no episode.
    :param ended: Whether each episode ended with the step, (B,) bool.
    :param infos: What the environments say, B dictionaries.
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    running: np.ndarray
    ended: np.ndarray
    infos: list[dict[str, Any]]


def play_episodes(policy: BasePolicy, env: VecEnv, seed: int, deterministic: bool = True) -> Iterator[Step]:
    """
    Play one episode in each environment, step by step.

    :param policy: Who plays: an ELMUR policy, which steps with cached keys and values, or any other of Stable-Baselines3.
    :param env: Environments, which are seeded and reset. An ELMUR policy takes their action masks, if they have any.
    :param seed: Seed of the first environment, and of actions if these are drawn; the others follow.
    :param deterministic: Take the most probable actions instead of drawing them.
    :return: The steps, until all episodes have ended.
    :raises ValueError: If the environments have other spaces than the policy.
    """
    try:
        check_for_correct_spaces(env, policy.observation_space, policy.action_space)
    except ValueError as error:
        cure = "Where it was trained in wrappers, register an id whose environment has them (`additional_wrappers`)."
        raise ValueError(f"`env` must have the spaces of the model: {error}. {cure}") from error
    act: Callable[..., tuple[np.ndarray, Any]] = policy.step if isinstance(policy, ElmurPolicy) else policy.predict
    masking = isinstance(policy, ElmurPolicy) and has_masks(env)
    env.seed(seed)
    if not deterministic:
        th.manual_seed(seed)
        if getattr(policy, "use_sde", False):
            policy.reset_noise(env.num_envs)  # type: ignore[operator]
    observations: Any = env.reset()
    state = None
    starts, running = np.ones((2, env.num_envs), dtype=bool)
    while running.any():
        masks = {"action_masks": get_action_masks(env)} if masking else {}
        actions, state = act(observations, state, starts, deterministic, **masks)
        after, rewards, starts, infos = env.step(actions)
        yield Step(observations, actions, rewards, running, starts & running, infos)
        observations, running = after, running & ~starts


def run_episodes(
    policy: BasePolicy,
    env: VecEnv,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    deterministic: bool = True,
) -> list[dict[str, float]]:
    """
    The results of one episode in each environment.

    :param policy: See :func:`play_episodes`.
    :param env: See :func:`play_episodes`.
    :param seed: See :func:`play_episodes`.
    :param progress: Called after every step of the batch with the number of steps so far, and of episodes that ended with it.
    :param deterministic: See :func:`play_episodes`.
    :return: Of each episode its ``return``, ``length``, and what the environment says of success.
    :raises ValueError: If the environments have other spaces than the policy.
    :raises FloatingPointError: If a reward is not finite.
    """
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=np.int64)
    episodes: list[dict[str, float]] = [{} for _ in range(env.num_envs)]
    for time, step in enumerate(play_episodes(policy, env, seed, deterministic), start=1):
        rewards = np.where(step.running, step.rewards, 0.0)
        check_rewards(rewards, time)
        returns += rewards
        lengths += step.running
        ended = np.flatnonzero(step.ended)
        for i in ended:
            episodes[i] = {"return": float(returns[i]), "length": int(lengths[i]), **successes(step.infos[i])}
        if progress is not None:
            progress(time, len(ended))
    return episodes


def successes(info: dict[str, Any]) -> dict[str, float]:
    """What the last info of an episode says of success; ``None`` says nothing."""
    return {key: float(info[key]) for key in SUCCESSES if info.get(key) is not None}


def wilson_interval(rate: float, n: int) -> tuple[float, float]:
    """
    95% confidence interval of a success probability (Wilson 1927).

    :param rate: Share of successes.
    :param n: Number of trials.
    :return: Its lower and its upper bound.
    """
    z2 = QUANTILE**2 / n
    centre = (rate + z2 / 2) / (1 + z2)
    half = QUANTILE / (1 + z2) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)

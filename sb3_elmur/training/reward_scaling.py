"""Rewards divided by the spread of discounted returns, so that the critic does not drown the policy's gradient."""

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_elmur.distributed import Group


def divide_rewards(
    buffer: RolloutBuffer, last_dones: np.ndarray, returns: np.ndarray, spread: RunningMeanStd, group: Group
) -> np.ndarray:
    """
    Divide each step's rewards by the standard deviation of all discounted returns until then, where that is above 1.

    :param buffer: A full rollout of T steps, whose rewards are divided.
    :param last_dones: Whether an episode ended with the last step, (n_envs,).
    :param returns: Discounted sums of the episodes' rewards before the rollout, (n_envs,); of another shape, they are 0.
    :param spread: Statistics of such sums, which are updated.
    :param group: Processes whose sums count, and which call this together with as many steps.
    :return: The discounted sums after the rollout.
    :raises FloatingPointError: If a sum is so large that its square is not finite.
    """
    rewards, dones = buffer.rewards, np.concatenate((buffer.episode_starts[1:], [last_dones])).astype(bool)
    if returns.shape != last_dones.shape:
        returns = np.zeros(last_dones.shape, rewards.dtype)
    returns = np.where(buffer.episode_starts[0], 0.0, returns)  # environments may have been reset between rollouts
    moments = []
    for reward, done in zip(rewards, dones, strict=True):
        returns = buffer.gamma * returns + reward
        moments.append((returns.mean(), returns.var()))
        returns[done] = 0.0
    divisors = []
    gathered = group.gather(moments)  # (size, T, 2)
    if not np.isfinite(gathered).all():
        largest = float(np.abs(rewards).max())
        raise FloatingPointError(f"Rewards must be below 1e18, for their returns to be squared. Received {largest:g}.")
    for moments_of_step in gathered.swapaxes(0, 1):
        for mean, variance in moments_of_step:
            spread.update_from_moments(mean, variance, len(returns))
        divisors.append(max(1.0, float(np.sqrt(spread.var))))
    rewards /= np.array(divisors, rewards.dtype)[:, None]
    return returns

"""A callback of Stable-Baselines3 that makes Gaussian actions precise once they have explored."""

import math
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_elmur.config import check_range

SMALLEST_STD, SMALLEST_FRACTION = 1e-6, 1e-6


class ActionNoiseDecay(BaseCallback):
    """
    Sets the standard deviation of continuous actions by a schedule, instead of training it.

    It falls from that of the policy's ``log_std_init`` to ``final_std``, by the same factor in every step, and stays there.
    What is smaller already, as in a cloned policy, is not raised.

    An arm that must come to rest to succeed is not rewarded for it while its actions are noisy, and finds nothing if they are
    not.

    :param final_std: What it falls to.
    :param fraction: Share of the training after which it is there, as DQN's ``exploration_fraction``.
    :param verbose: See :class:`stable_baselines3.common.callbacks.BaseCallback`.
    :raises ValueError: If an argument is out of range, or, when training starts, the policy has no such standard deviation.
    """

    def __init__(self, final_std: float, fraction: float = 0.5, verbose: int = 0) -> None:
        super().__init__(verbose)
        check_range("final_std", final_std, SMALLEST_STD, float("inf"))
        check_range("fraction", fraction, SMALLEST_FRACTION, 1.0)
        self.final_std, self.fraction = final_std, fraction

    def _on_training_start(self) -> None:
        policy = self.model.policy
        if not isinstance(policy, ActorCriticPolicy) or not hasattr(policy, "log_std") or policy.use_sde:
            raise ValueError(
                f"`policy` must have Gaussian actions without gSDE. Received actions in {self.model.action_space}."
            )
        policy.log_std.requires_grad_(False)

    def _on_rollout_start(self) -> None:
        policy: Any = self.model.policy
        share = min(1.0, self.num_timesteps / (self.fraction * self.model._total_timesteps))
        with th.no_grad():
            policy.log_std.clamp_(max=(1.0 - share) * policy.log_std_init + share * math.log(self.final_std))

    def _on_training_end(self) -> None:
        policy: Any = self.model.policy
        policy.log_std.requires_grad_(True)

    def _on_step(self) -> bool:
        return True

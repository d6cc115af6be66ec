"""Wrappers around batches of environments, in training and in evaluation."""

import copy
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize


@dataclass(frozen=True)
class Wrappers:
    """
    Normalisation and frame stacking, as rl_zoo3 does them.

    :param normalize: Whether to normalise observations and rewards, or the arguments of ``VecNormalize``.
    :param frame_stack: Number of latest observations that are shown.
    :param gamma: Discount factor of the returns by whose spread rewards are divided; ``None`` leaves it to ``normalize``.
    """

    normalize: bool | dict[str, Any]
    frame_stack: int = 1
    gamma: float | None = None

    @property
    def normalize_kwargs(self) -> dict[str, Any]:
        """Arguments of ``VecNormalize``."""
        arguments = self.normalize if isinstance(self.normalize, dict) else {}
        return arguments if self.gamma is None else arguments | {"gamma": self.gamma}

    def __call__(self, env: VecEnv) -> VecEnv:
        """Wrap for training."""
        return self._stack(VecNormalize(env, **self.normalize_kwargs) if self.normalize else env)

    def for_evaluation(self, env: VecEnv, trained_in: VecEnv) -> VecEnv:
        """Wrap with the statistics of training; rewards stay what they are."""
        if self.normalize:
            env = VecNormalize(env, **self.normalize_kwargs | {"training": False, "norm_reward": False})
            normalizer = trained_in.venv if isinstance(trained_in, VecFrameStack) else trained_in
            assert isinstance(normalizer, VecNormalize)
            if normalizer.norm_obs:
                env.obs_rms = copy.deepcopy(normalizer.obs_rms)
        return self._stack(env)

    def _stack(self, env: VecEnv) -> VecEnv:
        return VecFrameStack(env, self.frame_stack) if self.frame_stack > 1 else env

"""Wrappers around batches of environments, in training and in evaluation."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize


@dataclass(frozen=True)
class Wrappers:
    """
    Normalisation and frame stacking, as rl_zoo3 does them.

    :param normalize: Arguments of ``VecNormalize``; ``None`` leaves observations and rewards as they are.
    :param frame_stack: Number of latest observations that are shown.
    """

    normalize: Mapping[str, Any] | None
    frame_stack: int = 1

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Wrappers":
        """
        What settings ask for.

        :param settings: ``normalize`` is a flag or the arguments; ``normalize_kwargs`` are further ones. Of ``gamma`` are the
            returns by whose spread rewards are divided.
        """
        normalize, arguments = settings.get("normalize", False), dict(settings.get("normalize_kwargs", {}))
        if isinstance(normalize, Mapping):
            arguments |= normalize
        if "gamma" in settings:
            arguments["gamma"] = settings["gamma"]
        return cls(None if normalize in (None, False) else arguments, settings.get("frame_stack", 1))

    def __call__(self, env: VecEnv) -> VecEnv:
        """Wrap for training."""
        return self._stack(env if self.normalize is None else VecNormalize(env, **self.normalize))

    def for_evaluation(self, env: VecEnv, trained_in: VecEnv) -> VecEnv:
        """Wrap with the statistics of training; rewards stay what they are."""
        if self.normalize is not None:
            env = VecNormalize(env, **{**self.normalize, "training": False, "norm_reward": False})
            normalizer = trained_in.venv if isinstance(trained_in, VecFrameStack) else trained_in
            assert isinstance(normalizer, VecNormalize)
            if normalizer.norm_obs:
                env.obs_rms = copy.deepcopy(normalizer.obs_rms)
        return self._stack(env)

    def _stack(self, env: VecEnv) -> VecEnv:
        return VecFrameStack(env, self.frame_stack) if self.frame_stack > 1 else env

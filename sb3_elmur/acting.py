"""How an ELMUR policy acts outside of training: one step per environment, with the state of the last call."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_elmur import policy_checks
from sb3_elmur.core import states
from sb3_elmur.core.backbone import Backbone
from sb3_elmur.masks import check_masks, masked_distribution
from sb3_elmur.spaces import to_space

State = TypeVar("State", states.LiveState, states.CoreState)


class ActingPolicy(RecurrentActorCriticPolicy):
    """
    A policy with a backbone, in which :meth:`predict` and :meth:`step` act.

    A subclass sets ``backbone`` and ``_action_shift`` (:func:`sb3_elmur.spaces.shifts`), and implements
    :meth:`actor_features`.
    """

    backbone: Backbone
    _action_shift: Any

    def actor_features(self, obs: PyTorchObs) -> Tensor:
        """The actor's features of observations (B, ...), (B, features_dim)."""
        raise NotImplementedError

    def _get_action_dist_from_latent(self, latent_pi: Tensor, action_masks: Any = None) -> Distribution:
        if action_masks is None:
            return super()._get_action_dist_from_latent(latent_pi)
        return masked_distribution(self.action_space, self.action_net(latent_pi), action_masks)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Act, as every policy of Stable-Baselines3.

        The returned pair remembers its caches, so that the next call computes one token only, unless arrays or weights
        have changed since.

        :param observation: Observation of one environment, or of B of them.
        :param state: What the previous call returned, two float32 arrays (1, B, hidden_size), left as they are; lists and
            tensors of the same numbers will do. ``None`` and zeros are an episode's start.
        :param episode_start: (B,), true where the observation is the first of an episode; ``None`` means nowhere. For one
            environment a single flag will do, here and in :meth:`step`.
        :param deterministic: Take the most probable action instead of sampling.
        :param action_masks: See :meth:`forward`; of one environment (n,) will do.
        :return: Actions, and the state for the next call.
        :raises ValueError: If an observation is not finite in float32, or another argument does not fit.
        """
        pair = policy_checks.as_pair(state)
        fingerprint = self.backbone.fingerprint()

        def advance(features: Tensor, starts: Tensor) -> tuple[Tensor, states.LiveState]:
            shape = (1, len(features), self.lstm_actor.hidden_size)
            packed = (np.zeros(shape, dtype=np.float32),) * 2 if pair is None else pair
            policy_checks.check_packed_state(packed, shape)
            live = packed.live(fingerprint) if isinstance(packed, states.RememberingPair) else None
            if live is None:
                live = self.backbone.revive(tuple(th.as_tensor(part, device=self.device).float() for part in packed))
            return self.backbone.live_step(features, live, starts)

        actions, live = self._act(observation, advance, episode_start, deterministic, action_masks)
        arrays = [part.cpu().numpy() for part in self.backbone.pack(live)]
        return actions, states.RememberingPair(arrays, live, fingerprint)

    def step(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: states.CoreState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, states.CoreState]:
        """
        Act as :meth:`predict`, but with a state of tensors that is never packed, which saves time with large memories.

        :param observation: Observation of one environment, or of B of them.
        :param state: What the previous call returned, left as it is; valid as long as the weights stay the same.
            ``None`` is an episode's start.
        :param episode_start: (B,), true where the observation is the first of an episode; ``None`` means nowhere.
        :param deterministic: Take the most probable action instead of sampling.
        :param action_masks: See :meth:`forward`; of one environment (n,) will do.
        :return: Actions, and the state for the next call.
        :raises ValueError: If an observation is not finite in float32, or another argument does not fit.
        """

        def advance(features: Tensor, starts: Tensor) -> tuple[Tensor, states.CoreState]:
            before = self.backbone.core.initial_state(len(features)) if state is None else state
            policy_checks.check_step_state(before, (len(features), *self.backbone.core.initial_slots.shape))
            return self.backbone.step(features, before, starts)

        return self._act(observation, advance, episode_start, deterministic, action_masks)

    def to_bounds(self, actions: np.ndarray) -> np.ndarray:
        """Continuous actions (B, ...) as the environment takes them: rescaled if they are squashed, else clipped."""
        assert isinstance(self.action_space, spaces.Box)
        if self.squash_output:
            return self.unscale_action(actions)
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def _act(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        advance: Callable[[Tensor, Tensor], tuple[Tensor, State]],
        episode_start: np.ndarray | None,
        deterministic: bool,
        action_masks: np.ndarray | None,
    ) -> tuple[np.ndarray, State]:
        """Actions for the environments; ``advance(features, starts)`` gives the actor's latents and the next state."""
        policy_checks.check_observation(observation)
        if self.training:
            self.set_training_mode(False)
        obs, vectorized = self.obs_to_tensor(observation)
        with th.no_grad():
            features = self.actor_features(obs)
            latent, state = advance(features, policy_checks.as_episode_start(episode_start, len(features)).to(features.device))
            masks = check_masks(action_masks, self.action_space, len(latent))
            distribution = self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(latent), masks)
            actions = to_space(distribution.get_actions(deterministic=deterministic), self._action_shift)
        array = actions.cpu().numpy().reshape((-1, *self.action_space.shape))  # type: ignore[misc, arg-type]
        if isinstance(self.action_space, spaces.Box):
            array = self.to_bounds(array)
        return array if vectorized else array.squeeze(axis=0), state

"""One step of a policy as a graph: what ``predict`` does with the most probable action, from observation to action."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from sb3_elmur.core.backbone import Backbone
from sb3_elmur.export.core_step import CoreStep
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.spaces import as_dict, to_space

ACTOR, CRITIC = "actor.", "critic."  # begin the names of the states of a policy that has two


class Normalization(nn.Module):
    """
    What ``VecNormalize`` does to observations, in its precision.

    :param normalize: Its statistics; ``None`` for observations that are taken as they are.
    """

    def __init__(self, normalize: VecNormalize | None) -> None:
        super().__init__()
        statistics: Any = getattr(normalize, "obs_rms", None) or {}
        self.moments = {
            key: (th.as_tensor(rms.mean), th.as_tensor(rms.var + normalize.epsilon).sqrt())  # type: ignore[union-attr]
            for key, rms in as_dict(statistics).items()
        }
        self.limit = 0.0 if normalize is None else normalize.clip_obs

    def forward(self, observations: dict[str, Tensor]) -> dict[str, Tensor]:
        """Normalised observations by key, each (B, ...)."""
        return {key: self._normalize(key, values) if key in self.moments else values for key, values in observations.items()}

    def _normalize(self, key: str, values: Tensor) -> Tensor:
        mean, deviation = self.moments[key]
        return ((values.double() - mean) / deviation).clamp(-self.limit, self.limit).float()


class PolicyStep(nn.Module):
    """
    One step of a policy, from tensors to tensors.

    :param policy: In evaluation mode.
    :param normalize: Statistics by which observations are normalised.
    """

    def __init__(self, policy: ElmurPolicy, normalize: VecNormalize | None = None) -> None:
        super().__init__()
        self.policy, self.normalization = policy, Normalization(normalize)
        self.actor = CoreStep(policy.backbone.core)
        self.critic = None if policy.critic_backbone is None else CoreStep(policy.critic_backbone.core)
        self.bounds: tuple[Tensor, Tensor] | None = None
        if isinstance(policy.action_space, spaces.Box):
            self.bounds = th.as_tensor(policy.action_space.low).float(), th.as_tensor(policy.action_space.high).float()

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """The initial state of ``batch`` rows, by name."""
        if self.critic is None:
            return self.actor.initial_state(batch)
        parts = ((ACTOR, self.actor), (CRITIC, self.critic))
        return {prefix + name: tensor for prefix, part in parts for name, tensor in part.initial_state(batch).items()}

    def forward(
        self, observation: dict[str, Tensor], episode_start: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """
        Act, and estimate values.

        :param observation: By key, each (B, ...); of a space that is no Dict under the key ``observation``.
        :param episode_start: (B,) bool, true where an episode begins.
        :param state: By name, each (B, ...).
        :return: The most probable actions (B, ...), values (B,), and the state after the step.
        """
        obs: Any = self.normalization(observation)
        if not isinstance(self.policy.observation_space, spaces.Dict):
            (obs,) = obs.values()
        features = self.policy.extract_features(obs)
        pi_features, vf_features = features if isinstance(features, tuple) else (features, features)
        if self.critic is None or self.policy.critic_backbone is None:
            pi, state = run(self.policy.backbone, self.actor, pi_features, episode_start, state)
            return self.act(pi), self.value(pi), state
        pi, pi_state = run(self.policy.backbone, self.actor, pi_features, episode_start, part(state, ACTOR))
        vf, vf_state = run(self.policy.critic_backbone, self.critic, vf_features, episode_start, part(state, CRITIC))
        state = {ACTOR + name: tensor for name, tensor in pi_state.items()}
        return self.act(pi), self.value(vf), state | {CRITIC + name: tensor for name, tensor in vf_state.items()}

    def act(self, latent: Tensor) -> Tensor:
        """The most probable actions, (B, ...): float32 for Box, else int64."""
        policy = self.policy
        distribution = policy._get_action_dist_from_latent(policy.mlp_extractor.forward_actor(latent))
        actions = to_space(distribution.get_actions(deterministic=True), policy._action_shift)
        if self.bounds is None:
            return actions.long()
        low, high = self.bounds
        actions = actions.reshape(-1, *low.shape)
        return low + 0.5 * (actions + 1.0) * (high - low) if policy.squash_output else actions.clamp(low, high)

    def value(self, latent: Tensor) -> Tensor:
        """Values, (B,)."""
        return self.policy.value_net(self.policy.mlp_extractor.forward_critic(latent)).squeeze(1)


def run(
    backbone: Backbone, step: CoreStep, features: Tensor, episode_start: Tensor, state: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """
    Run one step of a backbone, as :meth:`sb3_elmur.core.backbone.Backbone.step` does.

    :param backbone: The actor's or the critic's.
    :param step: Of its core.
    :param features: (B, features_dim).
    :param episode_start: (B,) bool.
    :param state: Of its core, by name.
    :return: Latents (B, D), and the state after the step.
    """
    y, state = step(backbone.embed(features), episode_start, state)
    return backbone.norm(y), state


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

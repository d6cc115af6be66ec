"""
ELMUR as a recurrent policy of Stable-Baselines3: features extractor -> Linear -> memory core -> ``mlp_extractor`` -> heads.

The policy works with the unmodified ``sb3_contrib.RecurrentPPO``, whose (hidden, cell) pair carries memory, anchors,
position and the inputs of the open segment (:class:`sb3_elmur.core.states.PackedLayout`). There the open segment is recomputed
from them at every step; acting, and the segment-wise class, step with caches.
"""

import copy
from dataclasses import asdict
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from sb3_elmur import policy_arguments, policy_checks
from sb3_elmur.acting import ActingPolicy
from sb3_elmur.core import states
from sb3_elmur.core.arguments import check_flags
from sb3_elmur.core.backbone import Backbone
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.feedforward import Pool
from sb3_elmur.core.memory import Memory
from sb3_elmur.masks import check_masks
from sb3_elmur.spaces import as_dict, check_spaces, from_zero, map_observations, shifts, to_space

ROWS_AT_ONCE = 1024  # of observations that open chains are replayed from, so that images fit into memory


@policy_arguments.shows_fields_of(ElmurConfig)
class ElmurPolicy(ActingPolicy):
    """
    Actor-critic policy whose recurrent state is the memory of an ELMUR transformer (arXiv 2510.07151).

    For ``sb3_contrib.RecurrentPPO``. Use :class:`ElmurCnnPolicy` for images and :class:`ElmurMultiInputPolicy` for Dict
    observations. The paper's symbols stand in parentheses.

    :param observation_space: Observation space.
    :param action_space: Action space: Box, Discrete, MultiDiscrete or MultiBinary.
    :param lr_schedule: Learning rate schedule.
    :param net_arch: Layers of the policy and value networks behind the stack; ``None`` means none.
    :param activation_fn: Activation function of these layers.
    :param ortho_init: Whether to initialise features extractor, ``net_arch`` and heads orthogonally.
    :param use_sde: Whether to use state-dependent exploration (gSDE).
    :param log_std_init: Initial log standard deviation of continuous actions.
    :param full_std: See :class:`stable_baselines3.common.policies.ActorCriticPolicy`, as for the next two.
    :param use_expln: Use ``expln()`` instead of ``exp()`` for a positive standard deviation under gSDE.
    :param squash_output: Squash actions by ``tanh`` under gSDE.
    :param features_extractor_class: Features extractor; ``None`` means this class's default.
    :param features_extractor_kwargs: Its keyword arguments.
    :param share_features_extractor: One features extractor for actor and critic, or one for each
        (this needs ``separate_critic``).
    :param normalize_images: Divide images by 255.
    :param optimizer_class: Optimizer.
    :param optimizer_kwargs: Its keyword arguments besides the learning rate; ``None`` means the host's, and ``fused`` Adam.
    :param detach_memory: Stop gradients at segment borders, as the paper does. Otherwise they flow through all segments
        of a training sequence, so that the agent learns what to write. For sb3-contrib's class alone:
        ``sb3_elmur.RecurrentPPO`` has ``bptt_segments`` instead.
    :param separate_critic: Give the critic a stack and a memory of its own, instead of one stack trained by both losses.
    :param elmur: All fields of :class:`sb3_elmur.core.config.ElmurConfig`.
    :raises ValueError: If an argument lies outside its range, or the observation space needs another class.
    :raises TypeError: If an argument is unknown, or belongs to sb3-contrib's LSTM policies.
    """

    default_features_extractor_class: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    takes_dict: ClassVar[bool] = False  # whether that extractor is for Dict observations

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        use_sde: bool = False,
        log_std_init: float = 0.0,
        full_std: bool = True,
        use_expln: bool = False,
        squash_output: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        detach_memory: bool = False,
        separate_critic: bool = False,
        **elmur: Any,
    ) -> None:
        policy_arguments.refuse_unknown_arguments(type(self), ElmurPolicy, elmur)
        check_spaces(observation_space, action_space)
        if features_extractor_class is None:
            policy_arguments.check_policy_class(type(self), self.takes_dict, observation_space)
        flags = {"ortho_init": ortho_init, "normalize_images": normalize_images}
        check_flags(separate_critic=separate_critic, detach_memory=detach_memory, **flags)
        policy_arguments.check_net_arch(net_arch)
        policy_arguments.check_sharing(share_features_extractor, separate_critic)
        policy_arguments.check_squashing(squash_output, use_sde)
        self.config = ElmurConfig(**elmur)
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            optimizer_kwargs = {"eps": 1e-5, "fused": True}  # the host's eps; one kernel for all parameters
        self._observation_shift, self._action_shift = shifts(observation_space), shifts(action_space)
        self.detach_memory = detach_memory
        self.separate_critic = separate_critic
        self.lstm_output_dim = self.config.d_model
        # The parent's constructor would build LSTMs and their optimizer; its own parent calls `_build` below.
        ActorCriticPolicy.__init__(
            self, observation_space, action_space, lr_schedule, [] if net_arch is None else net_arch, activation_fn,
            ortho_init, use_sde, log_std_init, full_std, use_expln, squash_output,
            features_extractor_class or self.default_features_extractor_class, features_extractor_kwargs,
            share_features_extractor, normalize_images, optimizer_class, optimizer_kwargs,
        )  # fmt: skip

    def _build(self, lr_schedule: Schedule) -> None:
        self.backbone = Backbone(self.features_dim, self.config)
        self.critic_backbone = Backbone(self.features_dim, self.config) if self.separate_critic else None
        self.lstm_actor = states.StateShape(1, self.backbone.layout.hidden_size)  # type: ignore[assignment]
        self.lstm_hidden_state_shape = (1, 1, self.backbone.layout.hidden_size)
        super()._build(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = ("share_features_extractor", "detach_memory", "separate_critic")
        arguments = asdict(self.config) | {name: getattr(self, name) for name in own}
        return super()._get_constructor_parameters() | arguments

    def __getstate__(self) -> dict[str, Any]:
        """All but the graph of the last actions, which PyTorch cannot copy."""
        return self.__dict__ | {"action_dist": _without_graph(self.action_dist)}

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Make the features extractor, or say which others there are, if the observations do not suit it."""
        try:
            return super().make_features_extractor()
        except (AssertionError, RuntimeError) as error:  # no image, or one that is smaller than a convolution
            raise policy_arguments.unsuited_extractor(self.features_extractor_class, self.observation_space, error) from error

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """As the host's, for discrete observations that may begin anywhere."""
        return super().extract_features(from_zero(obs, self._observation_shift), features_extractor)

    def actor_features(self, obs: PyTorchObs) -> Tensor:
        """The actor's features of observations (B, ...), (B, features_dim)."""
        return self._features_by(self.pi_features_extractor, obs)

    def critic_features(self, obs: PyTorchObs) -> Tensor:
        """As :meth:`actor_features`, the critic's."""
        return self._features_by(self.vf_features_extractor, obs)

    def _features_by(self, features_extractor: BaseFeaturesExtractor, obs: PyTorchObs) -> Tensor:
        if not len(next(iter(as_dict(obs).values()))):  # of which a user's extractor need not know the shape
            return self.value_net.weight.new_zeros(0, self.features_dim)
        return BasePolicy.extract_features(self, from_zero(obs, self._observation_shift), features_extractor)

    def _features(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        """Features for actor and critic, each (B, features_dim)."""
        features = self.actor_features(obs)
        return features, features if self.share_features_extractor else self.critic_features(obs)

    def _latents(self, obs: PyTorchObs, before: Any, episode_starts: Tensor) -> tuple[Tensor, Tensor, Any]:
        """
        Inputs of the policy and of the value network, each (B, latent_dim), and the states afterwards.

        :param before: A ``PolicyState``, ``Chains`` or ``PackedState``, which knows how it runs.
        """
        pi_features, vf_features = self._features(obs)
        pi, pi_state = vf, vf_state = before.run(self.backbone, pi_features, before.pi, episode_starts)
        if self.critic_backbone is not None:
            vf, vf_state = before.run(self.critic_backbone, vf_features, before.vf, episode_starts)
        latents = self.mlp_extractor.forward_actor(pi), self.mlp_extractor.forward_critic(vf)
        return *latents, before._replace(pi=pi_state, vf=vf_state)

    def _packed(self, before: Any, need_state: bool) -> Any:
        """The host's states in a form that knows how it runs; others as they are."""
        policy_checks.check_recurrent(type(self), before)
        if not isinstance(before, RNNStates | states.PackedState):
            return before
        policy_checks.check_host_actions(self.action_space, self.squash_output)
        return states.PackedState(before.pi, before.vf, self.detach_memory, need_state)

    def forward(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        lstm_states: RNNStates | states.PolicyState | None = None,
        episode_starts: Any = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates | states.PolicyState]:
        """
        Act and estimate values, one step per environment.

        :param obs: Observations of B environments.
        :param lstm_states: Packed states, which are left as they are, or a ``PolicyState``, which is updated in place.
        :param episode_starts: (B,), 1 where an episode begins.
        :param deterministic: Take the most probable action instead of sampling.
        :param action_masks: (B, n), true where a choice is valid, see :mod:`sb3_elmur.masks`; ``None`` for all.
        :return: Actions (B, ...), values (B, 1), log-probabilities (B,), and the states after the step.
        :raises TypeError: If an algorithm without recurrent state calls it.
        """
        latent_pi, latent_vf, after = self._latents(obs, self._packed(lstm_states, need_state=True), episode_starts)
        action_masks = check_masks(action_masks, self.action_space, len(latent_pi))
        distribution = self._get_action_dist_from_latent(latent_pi, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        actions = to_space(actions, self._action_shift).reshape((-1, *self.action_space.shape))  # type: ignore[misc]
        return actions, self.value_net(latent_vf), log_prob, after

    def evaluate_actions(  # type: ignore[override]
        self, obs: PyTorchObs, actions: Tensor, lstm_states: RNNStates | states.Chains, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Replay B sequences of equal length T, or :class:`~sb3_elmur.core.states.Chains`.

        :param obs: Observations, (B * T, ...), sequence by sequence; of chains (R, ...).
        :param actions: (B * T, ...); of chains one for each token that is ``counted``.
        :param lstm_states: Packed states at the sequences' starts, or the chains.
        :param episode_starts: (B * T,), 1 where an episode begins; unused for chains.
        :return: Values (B * T, 1), log-probabilities and entropies (B * T,); no entropy where it has no analytical form.
            Of chains for the tokens that are ``counted``.
        """
        latent_pi, latent_vf, _ = self._latents(obs, self._packed(lstm_states, need_state=False), episode_starts)
        masks = lstm_states.action_masks if isinstance(lstm_states, states.Chains) else None
        distribution = self._get_action_dist_from_latent(latent_pi, masks)
        if isinstance(self.action_space, spaces.MultiBinary | spaces.Box):
            actions = actions.to(latent_pi.dtype)  # the buffer has them as the space does, int8 or float64
        log_prob = distribution.log_prob(from_zero(actions, self._action_shift))
        return self.value_net(latent_vf), log_prob, distribution.entropy()

    def get_distribution(  # type: ignore[override]
        self, obs: PyTorchObs, lstm_states: states.Pair, episode_starts: Tensor, action_masks: np.ndarray | None = None
    ) -> tuple[Distribution, states.Pair]:
        """
        Action distribution, one step per environment.

        :param obs: Observations of B environments.
        :param lstm_states: The actor's packed state; left as it is.
        :param episode_starts: (B,), 1 where an episode begins.
        :param action_masks: See :meth:`forward`.
        :return: The distribution, of discrete actions counted from 0, and the actor's packed state after the step.
        """
        features = self.actor_features(obs)
        latent, pair = self.backbone.unroll(
            features, lstm_states, episode_starts, detach_memory=self.detach_memory, need_state=True
        )
        masks = check_masks(action_masks, self.action_space, len(latent))
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(latent), masks), pair

    def predict_values(  # type: ignore[override]
        self, obs: PyTorchObs, lstm_states: states.Pair | states.PolicyState, episode_starts: Tensor
    ) -> Tensor:
        """
        Estimate values, one step per environment.

        :param obs: Observations of B environments.
        :param lstm_states: The critic's packed state, or a ``PolicyState``; left as it is.
        :param episode_starts: (B,), 1 where an episode begins.
        :return: (B, 1).
        """
        features = self.critic_features(obs)
        backbone = self.backbone if self.critic_backbone is None else self.critic_backbone
        if isinstance(lstm_states, states.PolicyState):
            latent, _ = backbone.step(features, lstm_states.vf, episode_starts)
        else:
            latent, _ = backbone.unroll(features, lstm_states, episode_starts, detach_memory=False, need_state=False)
        return self.value_net(self.mlp_extractor.forward_critic(latent))

    def reopen(self, obs: PyTorchObs, memories: states.Memories, lengths: Tensor) -> states.PolicyState:
        """
        Make a state for stepping after the beginnings of chains.

        :param obs: Observations, (B * T, ...), environment by environment; row b has ``lengths[b]`` of them.
        :param memories: Memory before the chains, B rows.
        :param lengths: (B,) int64.
        :return: State of B rows.
        """
        n_rows = len(next(iter(as_dict(obs).values())))
        parts = [
            self._features(map_observations(itemgetter(slice(first, first + ROWS_AT_ONCE)), obs))
            for first in range(0, max(1, n_rows), ROWS_AT_ONCE)
        ]
        pi_features, vf_features = (th.cat(features) for features in zip(*parts, strict=True))
        pi = self.backbone.reopen(pi_features, memories.pi, lengths)
        if self.critic_backbone is None:
            return states.PolicyState(pi, pi)
        return states.PolicyState(pi, self.critic_backbone.reopen(vf_features, memories.vf, lengths))

    def replay(
        self, obs: PyTorchObs, memory: Memory, lengths: Tensor, *, need_memory: bool = False, pool: Pool | None = None
    ) -> tuple[Tensor, Memory]:
        """
        Compute the inputs of the action network for chains of consecutive segments.

        :param obs: Observations in segment-major order, (R, ...): the first segments of all chains, then the second ones.
        :param memory: The actor's memory before each of the C chains.
        :param lengths: Steps of each chain, (C,) int64, on the CPU; their numbers of segments do not increase.
        :param need_memory: Whether the returned memory is used.
        :param pool: See :meth:`sb3_elmur.core.base.MemoryCore.replay`.
        :return: (R, latent_dim), and memory after the last segment, of the chains that reach it.
        """
        return self.replay_features(self.actor_features(obs), memory, lengths, need_memory=need_memory, pool=pool)

    def replay_features(
        self, features: Tensor, memory: Memory, lengths: Tensor, *, need_memory: bool = False, pool: Pool | None = None
    ) -> tuple[Tensor, Memory]:
        """As :meth:`replay`, for features of observations (R, features_dim), see :meth:`actor_features`."""
        latent, memory = self.backbone.replay(features, memory, lengths, need_memory=need_memory, pool=pool)
        return self.mlp_extractor.forward_actor(latent), memory

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        """The shared backbone, or the actor's and the critic's."""
        return (self.backbone,) if self.critic_backbone is None else (self.backbone, self.critic_backbone)

    def initial_memories(self, batch: int) -> states.Memories:
        """Memory of actor and critic in ``batch`` episodes that are about to begin."""
        pi = self.backbone.core.initial_memory(batch)
        return states.Memories(pi, pi if self.critic_backbone is None else self.critic_backbone.core.initial_memory(batch))


class ElmurCnnPolicy(ElmurPolicy):
    """:class:`ElmurPolicy` for image observations."""

    default_features_extractor_class = NatureCNN


class ElmurMultiInputPolicy(ElmurPolicy):
    """:class:`ElmurPolicy` for Dict observations."""

    default_features_extractor_class = CombinedExtractor
    takes_dict = True


def _without_graph(distribution: Any) -> Any:
    """
    Copy a distribution of actions without the graph that its tensors hang on.

    :param distribution: Of Stable-Baselines3 or of PyTorch, or what these consist of.
    :return: The copy; what is no tensor is shared.
    """
    if isinstance(distribution, Tensor):
        return distribution.detach()
    if isinstance(distribution, list):
        return [_without_graph(part) for part in distribution]
    if isinstance(distribution, Distribution | th.distributions.Distribution):
        copied = copy.copy(distribution)
        vars(copied).update({name: _without_graph(part) for name, part in vars(distribution).items()})
        return copied
    return distribution

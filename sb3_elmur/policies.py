"""
ELMUR as a recurrent policy of Stable-Baselines3: features extractor -> Linear -> memory core -> ``mlp_extractor`` -> heads.

The policy works with the unmodified ``sb3_contrib.RecurrentPPO``, whose (hidden, cell) pair carries memory, anchors,
position and the inputs of the open segment (:class:`sb3_elmur.core.memory.PackedLayout`). There the open segment is recomputed
from them at every step; acting, and the segment-wise class, step with caches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from sb3_elmur.core.backbone import Backbone, Chains, LiveState, Pair, PolicyState, RememberingPair, StateShape
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.elmur import CoreState
from sb3_elmur.core.memory import Memory
from sb3_elmur.policy_checks import (
    check_episode_start,
    check_finite,
    check_packed_state,
    check_pair,
    check_step_state,
    refuse_unknown_arguments,
)

State = TypeVar("State", LiveState, CoreState)


class ElmurPolicy(RecurrentActorCriticPolicy):
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
    :param core: ``"elmur"``, or a baseline that differs in the memory alone: ``"gru"`` or ``"lstm"``, of ``n_layers`` x
        ``d_model``. Of the arguments below only ``segment_length``, ``detach_memory``, ``separate_critic`` and ``dropout``
        (between its layers) matter for these.
    :param d_model: Width of tokens and of memory slots (D), for ELMUR even and divisible by ``n_heads``.
    :param n_layers: Number of layers, each with a memory of its own.
    :param n_heads: Attention heads.
    :param segment_length: Steps per segment (L): the reach of self-attention, and one memory write per ``L`` steps.
        For a GRU or LSTM only the unit in which its state is stored and gradients are cut.
    :param memory_size: Memory slots per layer (M). 0 is a plain transformer that sees nothing but the open segment.
    :param lru_blend: Weight (lambda) in [0, 1] of what is newly written when a slot is overwritten.
    :param blend: How new and old content of a slot are combined: by the paper's constant lambda (``"fixed"``), a trained one
        for each layer (``"learned"``), or a gate that looks at both and keeps or replaces the slot (``"gated"``).
    :param gate_bias: Where the logits of gates begin; below 0 they begin closed, and keep what a slot was filled with.
    :param memory_init_std: Standard deviation (sigma) of the initial slot vectors.
    :param max_distance: Reach (K) in steps of the relative bias between tokens and slots.
    :param detach_memory: Stop gradients at segment borders, as the paper does. Otherwise they flow through all segments
        of a training sequence, so that the agent learns what to write.
    :param separate_critic: Give the critic a stack and a memory of its own, instead of one stack trained by both losses.
    :param norm_first: Pre-norm instead of post-norm (the paper's).
    :param norm: ``"layer"`` or ``"rms"``.
    :param ffn: ``"swiglu"``, ``"gelu"`` or ``"moe"`` (mixture of experts).
    :param d_ff: Hidden width of the feed-forward networks; ``None`` means ``2 * d_model``.
    :param n_routed_experts: Experts of which the router chooses.
    :param n_shared_experts: Experts that are always on.
    :param top_k: Experts per token, the shared ones included, but always at least one routed one.
    :param router_gate: ``"softmax"`` or ``"renormalised"``.
    :param routed_d_ff: Hidden width of a routed expert; ``None`` means ``d_ff``.
    :param shared_d_ff: Hidden width of a shared expert; ``None`` means ``d_ff``.
    :param aux_loss_coef: Weight of the load-balancing loss. Under ``sb3_contrib.RecurrentPPO``, which passes no mask, the
        padding of its minibatches counts as tokens.
    :param dropout: Dropout on every sublayer's output. PPO compares a rollout without dropout to an update with it.
    :param attention_dropout: Dropout on attention weights.
    :param memory_dropout: Dropout on what is written to memory.
    :param compile: Compile the token track with ``torch.compile``, for sequences and for single steps. It takes up to a few
        minutes at the first step and at the first update, needs a C++ compiler, and pays most for steps of one environment.
    :param unknown: Any other argument is refused with a hint.
    :raises ValueError: If an argument lies outside its range, or the observation space needs another class.
    :raises TypeError: If an argument is unknown, or belongs to sb3-contrib's LSTM policies.
    """

    default_features_extractor_class: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor

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
        core: str = ElmurConfig.core,
        d_model: int = ElmurConfig.d_model,
        n_layers: int = ElmurConfig.n_layers,
        n_heads: int = ElmurConfig.n_heads,
        segment_length: int = ElmurConfig.segment_length,
        memory_size: int = ElmurConfig.memory_size,
        lru_blend: float = ElmurConfig.lru_blend,
        blend: str = ElmurConfig.blend,
        gate_bias: float = ElmurConfig.gate_bias,
        memory_init_std: float = ElmurConfig.memory_init_std,
        max_distance: int = ElmurConfig.max_distance,
        detach_memory: bool = False,
        separate_critic: bool = False,
        norm_first: bool = ElmurConfig.norm_first,
        norm: str = ElmurConfig.norm,
        ffn: str = ElmurConfig.ffn,
        d_ff: int | None = ElmurConfig.d_ff,
        n_routed_experts: int = ElmurConfig.n_routed_experts,
        n_shared_experts: int = ElmurConfig.n_shared_experts,
        top_k: int = ElmurConfig.top_k,
        router_gate: str = ElmurConfig.router_gate,
        routed_d_ff: int | None = ElmurConfig.routed_d_ff,
        shared_d_ff: int | None = ElmurConfig.shared_d_ff,
        aux_loss_coef: float = ElmurConfig.aux_loss_coef,
        dropout: float = ElmurConfig.dropout,
        attention_dropout: float = ElmurConfig.attention_dropout,
        memory_dropout: float = ElmurConfig.memory_dropout,
        compile: bool = ElmurConfig.compile,
        **unknown: Any,
    ) -> None:
        refuse_unknown_arguments(type(self), unknown)
        takes_dict = self.default_features_extractor_class is CombinedExtractor
        if features_extractor_class is None and isinstance(observation_space, spaces.Dict) != takes_dict:
            kind = type(observation_space).__name__
            suited = "ElmurPolicy or ElmurCnnPolicy" if takes_dict else "ElmurMultiInputPolicy"
            raise ValueError(f"{type(self).__name__} does not take {kind} observations. Use {suited}.")
        for name, flag in (("separate_critic", separate_critic), ("detach_memory", detach_memory)):
            if not isinstance(flag, bool):
                raise ValueError(f"`{name}` must be True or False. Received {flag!r}.")
        if not share_features_extractor and not separate_critic:
            raise ValueError(
                "`share_features_extractor=False` needs `separate_critic=True`. Received `separate_critic=False`."
            )
        self.config = ElmurConfig(
            core=core,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            segment_length=segment_length,
            memory_size=memory_size,
            lru_blend=lru_blend,
            blend=blend,
            gate_bias=gate_bias,
            memory_init_std=memory_init_std,
            max_distance=max_distance,
            norm_first=norm_first,
            norm=norm,
            ffn=ffn,
            d_ff=d_ff,
            n_routed_experts=n_routed_experts,
            n_shared_experts=n_shared_experts,
            top_k=top_k,
            router_gate=router_gate,
            routed_d_ff=routed_d_ff,
            shared_d_ff=shared_d_ff,
            aux_loss_coef=aux_loss_coef,
            dropout=dropout,
            attention_dropout=attention_dropout,
            memory_dropout=memory_dropout,
            compile=compile,
        )
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            optimizer_kwargs = {"eps": 1e-5, "fused": True}  # the host's eps; one kernel for all parameters
        self.detach_memory = detach_memory
        self.separate_critic = separate_critic
        self.lstm_output_dim = d_model
        # The parent's constructor would build LSTMs and their optimizer; its own parent calls `_build` below.
        ActorCriticPolicy.__init__(
            self,
            observation_space,
            action_space,
            lr_schedule,
            [] if net_arch is None else net_arch,
            activation_fn,
            ortho_init,
            use_sde,
            log_std_init,
            full_std,
            use_expln,
            squash_output,
            features_extractor_class or self.default_features_extractor_class,
            features_extractor_kwargs,
            share_features_extractor,
            normalize_images,
            optimizer_class,
            optimizer_kwargs,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        self.backbone = Backbone(self.features_dim, self.config)
        self.critic_backbone = Backbone(self.features_dim, self.config) if self.separate_critic else None
        shape = StateShape(num_layers=1, hidden_size=self.backbone.layout.hidden_size)
        self.lstm_actor = shape  # type: ignore[assignment]
        self.lstm_hidden_state_shape = (1, 1, shape.hidden_size)
        super()._build(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return (
            super()._get_constructor_parameters()
            | dataclasses.asdict(self.config)
            | {
                "share_features_extractor": self.share_features_extractor,
                "detach_memory": self.detach_memory,
                "separate_critic": self.separate_critic,
            }
        )

    def _features(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        """Features for actor and critic, each (B, features_dim)."""
        features = self.extract_features(obs)
        return features if isinstance(features, tuple) else (features, features)

    def _latents(
        self, obs: PyTorchObs, states: RNNStates | PolicyState | Chains, episode_starts: Tensor, need_state: bool
    ) -> tuple[Tensor, Tensor, RNNStates | PolicyState | Chains]:
        """Inputs of the policy and of the value network, each (B, latent_dim), and the states."""
        pi_features, vf_features = self._features(obs)
        pi, pi_state = self._run(self.backbone, pi_features, states, states.pi, episode_starts, need_state)
        vf, vf_state = pi, pi_state
        if self.critic_backbone is not None:
            vf, vf_state = self._run(self.critic_backbone, vf_features, states, states.vf, episode_starts, need_state)
        latents = self.mlp_extractor.forward_actor(pi), self.mlp_extractor.forward_critic(vf)
        return *latents, states._replace(pi=pi_state, vf=vf_state)

    def _run(
        self, backbone: Backbone, features: Tensor, states: Any, own: Any, episode_starts: Tensor, need_state: bool
    ) -> tuple[Tensor, Any]:
        """Latents and the next state by the way that the kind of ``states`` asks for; ``own`` is the backbone's part."""
        if isinstance(states, PolicyState):
            return backbone.step(features, own, episode_starts, inplace=True)
        if isinstance(states, Chains):
            return backbone.replay(features, own, states.lengths)[0][states.counted], own
        return backbone(features, own, episode_starts, detach_memory=self.detach_memory, need_state=need_state)

    def forward(  # type: ignore[override]
        self, obs: PyTorchObs, lstm_states: RNNStates | PolicyState, episode_starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates | PolicyState]:
        """
        Act and estimate values, one step per environment.

        :param obs: Observations of B environments.
        :param lstm_states: Packed states, which are left as they are, or a :class:`PolicyState`, which is updated in place.
        :param episode_starts: (B,), 1 where an episode begins.
        :param deterministic: Take the most probable action instead of sampling.
        :return: Actions (B, ...), values (B, 1), log-probabilities (B,), and the states after the step.
        """
        latent_pi, latent_vf, states = self._latents(obs, lstm_states, episode_starts, need_state=True)
        distribution = self._get_action_dist_from_latent(latent_pi)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        actions = actions.reshape((-1, *self.action_space.shape))  # type: ignore[misc]
        return actions, self.value_net(latent_vf), log_prob, states  # type: ignore[return-value]

    def evaluate_actions(  # type: ignore[override]
        self, obs: PyTorchObs, actions: Tensor, lstm_states: RNNStates | Chains, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Replay B sequences of equal length T, or :class:`Chains`.

        :param obs: Observations, (B * T, ...), sequence by sequence; of chains (R, ...).
        :param actions: (B * T, ...); of chains one for each token that is ``counted``.
        :param lstm_states: Packed states at the sequences' starts, or the chains.
        :param episode_starts: (B * T,), 1 where an episode begins; unused for chains.
        :return: Values (B * T, 1), log-probabilities and entropies (B * T,); no entropy where it has no analytical form.
            Of chains for the tokens that are ``counted``.
        """
        latent_pi, latent_vf, _ = self._latents(obs, lstm_states, episode_starts, need_state=False)
        distribution = self._get_action_dist_from_latent(latent_pi)
        if isinstance(self.action_space, spaces.MultiBinary):
            actions = actions.float()  # the host's buffer returns int8, which torch's Bernoulli refuses
        return self.value_net(latent_vf), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: PyTorchObs, lstm_states: Pair, episode_starts: Tensor) -> tuple[Distribution, Pair]:  # type: ignore[override]
        """
        Action distribution, one step per environment.

        :param obs: Observations of B environments.
        :param lstm_states: The actor's packed state; left as it is.
        :param episode_starts: (B,), 1 where an episode begins.
        :return: The distribution, and the actor's packed state after the step.
        """
        features, _ = self._features(obs)
        latent, pair = self.backbone(features, lstm_states, episode_starts, detach_memory=self.detach_memory, need_state=True)
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(latent)), pair

    def predict_values(  # type: ignore[override]
        self, obs: PyTorchObs, lstm_states: Pair | PolicyState, episode_starts: Tensor
    ) -> Tensor:
        """
        Estimate values, one step per environment.

        :param obs: Observations of B environments.
        :param lstm_states: The critic's packed state, or a :class:`PolicyState`; left as it is.
        :param episode_starts: (B,), 1 where an episode begins.
        :return: (B, 1).
        """
        _, features = self._features(obs)
        backbone = self.backbone if self.critic_backbone is None else self.critic_backbone
        if isinstance(lstm_states, PolicyState):
            latent, _ = backbone.step(features, lstm_states.vf, episode_starts)
        else:
            latent, _ = backbone(features, lstm_states, episode_starts, detach_memory=self.detach_memory, need_state=False)
        return self.value_net(self.mlp_extractor.forward_critic(latent))

    def reopen(self, obs: PyTorchObs, memories: tuple[Memory, ...], lengths: Tensor) -> PolicyState:
        """
        State for stepping after the beginnings of chains, computed with the present weights.

        :param obs: Observations, (B * T, ...), environment by environment; row b has ``lengths[b]`` of them.
        :param memories: Memory before the chains, of the shared backbone, or of the actor and the critic.
        :param lengths: (B,) int64.
        """
        pi_features, vf_features = self._features(obs)
        pi = self.backbone.reopen(pi_features, memories[0], lengths)
        if self.critic_backbone is None:
            return PolicyState(pi, pi)
        return PolicyState(pi, self.critic_backbone.reopen(vf_features, memories[1], lengths))

    def replay(self, obs: PyTorchObs, memory: Memory, lengths: Tensor, *, need_memory: bool = False) -> tuple[Tensor, Memory]:
        """
        Inputs of the action network for chains of consecutive segments.

        :param obs: Observations in segment-major order, (R, ...): the first segments of all chains, then the second ones.
        :param memory: The actor's memory before each of the C chains.
        :param lengths: Steps of each chain, (C,) int64, on the CPU; their numbers of segments do not increase.
        :param need_memory: Whether the returned memory is used.
        :return: (R, latent_dim), and memory after the last segment, of the chains that reach it.
        """
        features = BasePolicy.extract_features(self, obs, self.pi_features_extractor)
        latent, memory = self.backbone.replay(features, memory, lengths, need_memory=need_memory)
        return self.mlp_extractor.forward_actor(latent), memory

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        """The shared backbone, or the actor's and the critic's."""
        return (self.backbone,) if self.critic_backbone is None else (self.backbone, self.critic_backbone)

    def initial_memories(self, batch: int) -> tuple[Memory, ...]:
        """Memory at an episode's start, of each backbone."""
        return tuple(backbone.core.initial_memory(batch) for backbone in self.backbones)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Act, as every policy of Stable-Baselines3.

        The returned pair remembers its caches, so that the next call computes one token only, unless arrays or weights
        have changed since.

        :param observation: Observation of one environment, or of B of them.
        :param state: What the previous call returned, two float32 arrays (1, B, hidden_size), left as they are.
            ``None`` and zeros are an episode's start.
        :param episode_start: (B,), true where the observation is the first of an episode; ``None`` means nowhere.
        :param deterministic: Take the most probable action instead of sampling.
        :return: Actions, and the state for the next call.
        :raises ValueError: If an observation is not finite in float32, or ``state`` or ``episode_start`` does not fit.
        """
        check_pair(state)
        version = self._weights_version()

        def advance(features: Tensor, starts: Tensor) -> tuple[Tensor, LiveState]:
            shape = (1, len(features), self.lstm_actor.hidden_size)
            given = (np.zeros(shape, dtype=np.float32),) * 2 if state is None else state
            check_packed_state(given, shape)
            live = given.live(version) if isinstance(given, RememberingPair) else None
            if live is None:
                live = self.backbone.revive(tuple(th.as_tensor(part, device=self.device).float() for part in given))
            return self.backbone.live_step(features, live, starts)

        actions, live = self._act(observation, advance, episode_start, deterministic)
        arrays = [part.cpu().numpy() for part in self.backbone.pack(live)]
        return actions, RememberingPair(arrays, live, version)

    def step(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: CoreState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, CoreState]:
        """
        Act as :meth:`predict`, but with a state of tensors that is never packed, which saves time with large memories.

        :param observation: Observation of one environment, or of B of them.
        :param state: What the previous call returned, left as it is; valid as long as the weights stay the same.
            ``None`` is an episode's start.
        :param episode_start: (B,), true where the observation is the first of an episode; ``None`` means nowhere.
        :param deterministic: Take the most probable action instead of sampling.
        :return: Actions, and the state for the next call.
        :raises ValueError: If an observation is not finite in float32, or ``state`` or ``episode_start`` does not fit.
        """

        def advance(features: Tensor, starts: Tensor) -> tuple[Tensor, CoreState]:
            given = self.backbone.core.initial_state(len(features)) if state is None else state
            check_step_state(given, (len(features), *self.backbone.core.initial_slots.shape))
            return self.backbone.step(features, given, starts)

        return self._act(observation, advance, episode_start, deterministic)

    def _act(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        advance: Callable[[Tensor, Tensor], tuple[Tensor, State]],
        episode_start: np.ndarray | None,
        deterministic: bool,
    ) -> tuple[np.ndarray, State]:
        """Actions for the environments; ``advance(features, starts)`` gives the actor's latents and the next state."""
        check_finite(observation)
        self.set_training_mode(False)
        obs, vectorized = self.obs_to_tensor(observation)
        with th.no_grad():
            features, _ = self._features(obs)
            starts = th.zeros(len(features), dtype=th.bool) if episode_start is None else th.as_tensor(episode_start)
            check_episode_start(starts, len(features))
            latent, state = advance(features, starts.to(features.device))
            distribution = self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(latent))
            actions = distribution.get_actions(deterministic=deterministic)
        array = actions.cpu().numpy().reshape((-1, *self.action_space.shape))  # type: ignore[misc, arg-type]
        if isinstance(self.action_space, spaces.Box):
            squashed = self.squash_output
            array = self.unscale_action(array) if squashed else np.clip(array, self.action_space.low, self.action_space.high)
        return array if vectorized else array.squeeze(axis=0), state

    def _weights_version(self) -> tuple[tuple[int, int], ...]:
        """Changes whenever weights do: in place (but not through ``.data``), or by new tensors."""
        return tuple((tensor.data_ptr(), tensor._version) for tensor in (*self.parameters(), *self.buffers()))


class ElmurCnnPolicy(ElmurPolicy):
    """:class:`ElmurPolicy` for image observations."""

    default_features_extractor_class = NatureCNN


class ElmurMultiInputPolicy(ElmurPolicy):
    """:class:`ElmurPolicy` for Dict observations."""

    default_features_extractor_class = CombinedExtractor

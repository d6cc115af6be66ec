"""Segment-wise RecurrentPPO: a drop-in for ``sb3_contrib.RecurrentPPO`` for policies with a memory core."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import sb3_contrib
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import LinearSchedule, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.optim import Optimizer

from sb3_elmur.buffers import SegmentDictRolloutBuffer, SegmentRolloutBuffer
from sb3_elmur.core.states import PolicyState
from sb3_elmur.distributed import current_group
from sb3_elmur.finite import check_rewards, check_weights, unfinite
from sb3_elmur.masks import check_no_state_lost, get_action_masks, has_masks
from sb3_elmur.policies import ElmurCnnPolicy, ElmurMultiInputPolicy, ElmurPolicy
from sb3_elmur.spaces import map_observations
from sb3_elmur.training.averaging import Average, EndAverage, as_callbacks, begin_average
from sb3_elmur.training.checks import check_arguments
from sb3_elmur.training.compiling import compile_rollouts
from sb3_elmur.training.joint import FirstProcessCallback, learning_jointly, updating_jointly
from sb3_elmur.training.reward_scaling import divide_rewards
from sb3_elmur.training.trust_region import DEFAULT_SIZE, training_within

Self = TypeVar("Self", bound="RecurrentPPO")
POLICY_DEFAULTS = {"d_model": 64, "blend": "gated"}  # not of the policies, or files without these arguments would not load
FALLING = LinearSchedule(1e-3, 0.0, 1.0)  # to 0 at the end of training


class RecurrentPPO(sb3_contrib.RecurrentPPO):
    """
    Recurrent PPO on whole segments: the host's loss, logs and files, with less memory and work.

    It steps with cached keys and values, stores memory once per chain of segments, and trains on chains in parallel, with
    gradients through their memory. Saved models load in both classes.

    :param policy: ``"ElmurPolicy"``, ``"ElmurCnnPolicy"``, ``"ElmurMultiInputPolicy"``, or such a class.
    :param env: Environment, or its id.
    :param learning_rate: Learning rate or schedule.
    :param n_steps: Steps per environment and rollout.
    :param batch_size: Least number of steps in a minibatch, which holds whole chains; ``None`` for an eighth of a rollout, but
        at least 256.
    :param n_epochs: Passes over a rollout.
    :param gamma: Discount factor.
    :param gae_lambda: Factor of generalised advantage estimation.
    :param clip_range: Clipping of the policy ratio, or its schedule.
    :param clip_range_vf: Clipping of the value function; ``None`` for none.
    :param normalize_advantage: Whether to normalise advantages per minibatch.
    :param ent_coef: Weight of the entropy bonus.
    :param vf_coef: Weight of the value loss.
    :param max_grad_norm: Largest norm of the gradient.
    :param use_sde: Whether to use state-dependent exploration (gSDE).
    :param sde_sample_freq: Steps between new noise matrices; -1 for once per rollout.
    :param target_kl: Limit of the KL divergence within an update.
    :param stats_window_size: Episodes over which statistics are averaged.
    :param tensorboard_log: Folder of TensorBoard logs.
    :param policy_kwargs: Arguments of the policy. Where these do not say otherwise, ``d_model`` is 64 and ``blend``
        ``"gated"``, which learns best. ``detach_memory=True`` is refused: ``bptt_segments=1`` does the same.
    :param verbose: 0 silent, 1 info, 2 debug.
    :param seed: Seed of all random generators.
    :param device: Device of the policy.
    :param bptt_segments: Consecutive segments of an episode (k) through which gradients flow. Chains are aligned to the
        episode's start: chain c holds its segments c * k, ..., c * k + k - 1. 1 is the paper's detached memory, whose write
        path learns nothing from the task. PPO's ratios see what an update does to memory within a chain alone.
    :param trust_region: How far an update may take the policy: the mean KL divergence of a step, measured on whole episodes,
        in nats, or, where actions are discrete and the policy is surer than one nat, in units of its entropy. ``None`` for any
        distance. See :func:`sb3_elmur.training.trust_region.training_within`.
    :param scale_rewards: Whether to divide rewards by the standard deviation of discounted returns so far, where that is above
        1: the critic, which shares the memory, would drown the policy's gradient otherwise. Small rewards stay as they are.
    :param averaging: Share in [0, 1] of the updates so far that an average of the policy's weights reaches back over; 0 for
        the last ones. While :meth:`learn` runs, :meth:`predict` and :meth:`save` use it, and in the end the policy becomes it.
        ``learn(reset_num_timesteps=False)`` goes on with the weights that trained, a loaded model with the average.
    :raises ValueError: If an argument, also one given to :meth:`load`, is out of range, or the policy has no memory core.

    Attribute ``state`` is the recurrent state of actor and critic after the last step that was taken in the environments,
    one row for each, or ``None`` before training. Steps update it in place. ``average`` is the average of the weights and what
    it needs to go on, ``None`` before training.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **sb3_contrib.RecurrentPPO.policy_aliases,
        "ElmurPolicy": ElmurPolicy,
        "ElmurCnnPolicy": ElmurCnnPolicy,
        "ElmurMultiInputPolicy": ElmurMultiInputPolicy,
    }
    policy: ElmurPolicy
    state: PolicyState | None
    rollout_buffer: SegmentRolloutBuffer

    def __init__(
        self,
        policy: str | type[ElmurPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = FALLING,
        n_steps: int = 128,
        batch_size: int | None = None,
        n_epochs: int = 4,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.01,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        bptt_segments: int = 8,
        trust_region: float | None = DEFAULT_SIZE,
        scale_rewards: bool = True,
        averaging: float = 0.2,
        _init_setup_model: bool = True,
    ) -> None:
        if (policy_kwargs or {}).get("detach_memory"):
            raise ValueError(
                "`detach_memory` must be False in sb3_elmur.RecurrentPPO, where `bptt_segments=1` cuts gradients at segment "
                "borders. Received True."
            )
        policy_class = self.policy_aliases.get(policy) if isinstance(policy, str) else policy
        if policy_class is not None and issubclass(policy_class, ElmurPolicy):
            policy_kwargs = POLICY_DEFAULTS | (policy_kwargs or {})
        self.bptt_segments, self.trust_region = bptt_segments, trust_region
        self.scale_rewards, self.averaging = scale_rewards, averaging
        self.state, self.use_masking = None, True
        self._mask_env: GymEnv | None = None  # within `masked_by`
        self.average: Average[ElmurPolicy] | None = None
        self.normalized = False  # whether it was built for observations that a VecNormalize normalises
        self._stopped = False  # by a callback, while several processes train
        self.return_rms, self._discounted_returns = RunningMeanStd(shape=()), np.zeros(0)
        self.step_size = 1.0  # share of the learning rate that the trust region leaves to what acts
        super().__init__(
            policy, env, learning_rate=learning_rate, n_steps=n_steps, batch_size=batch_size, n_epochs=n_epochs, gamma=gamma,
            gae_lambda=gae_lambda, clip_range=clip_range, clip_range_vf=clip_range_vf, normalize_advantage=normalize_advantage,
            ent_coef=ent_coef, vf_coef=vf_coef, max_grad_norm=max_grad_norm, use_sde=use_sde, sde_sample_freq=sde_sample_freq,
            target_kl=target_kl, stats_window_size=stats_window_size, tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs, verbose=verbose, seed=seed, device=device, _init_setup_model=_init_setup_model,
        )  # fmt: skip

    def _setup_model(self) -> None:
        check_arguments(self)
        if self._vec_normalize_env is not None:
            self.normalized = self._vec_normalize_env.norm_obs
        n_steps, self.n_steps = self.n_steps, 1  # the host's buffer is replaced below: keep it small
        super()._setup_model()
        self.n_steps = n_steps
        self._last_lstm_states = None
        buffer_class = SegmentDictRolloutBuffer if isinstance(self.observation_space, spaces.Dict) else SegmentRolloutBuffer
        self.rollout_buffer = buffer_class(
            self.n_steps, self.observation_space, self.action_space, partial(self.policy.initial_memories, self.n_envs),
            self.policy.config.segment_length, self.bptt_segments, self.device, gae_lambda=self.gae_lambda, gamma=self.gamma,
            n_envs=self.n_envs,
        )  # fmt: skip

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "RecurrentPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        use_masking: bool = True,
    ) -> Self:
        """
        Train; arguments as the host's, and one of ``MaskablePPO``'s.

        Processes that have joined a group (:func:`sb3_elmur.distributed.join_group`) train one model together. Steps and
        ``batch_size`` count those of all; callbacks, logs and progress bar are of the first process alone.

        :param use_masking: Whether to use the masks of environments that have any, see :mod:`sb3_elmur.masks`.
        :return: This model; its policy has the average of the last weights.
        :raises ValueError: If the model was saved with ``detach_memory=True`` and gradients would cross segment borders.
        :raises LostProcessError: If another process of the group has ended.
        """
        self.use_masking, self._stopped = use_masking, False
        with learning_jointly(self) as group:
            if group.size > 1:
                callback, progress_bar = FirstProcessCallback(callback, group), progress_bar and group.rank == 0
                total_timesteps, reset_num_timesteps = group.from_first(lambda: (total_timesteps, reset_num_timesteps))
            say = print if self.verbose else lambda _: None
            compile_rollouts(self.policy, self.n_envs, total_timesteps // group.size, say)
            kept = None if reset_num_timesteps else self.average
            self.average = begin_average(self.policy, kept, group) if self.averaging else None
            callbacks = [EndAverage(), *as_callbacks(callback)]
            return self._learn(total_timesteps, callbacks, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _learn(self: Self, *arguments: Any) -> Self:
        """The host's ``learn``, after which the policy becomes the average of its weights."""
        try:
            return super().learn(*arguments)
        except Exception:
            if unfinite(self.policy) is not None:
                self.average = None  # the policy keeps them, so that they are seen and not saved
            raise
        finally:
            if self.average is not None:
                self.average.end(self.policy)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all random generators, those of several processes differently: environment i of all has seed + i."""
        super().set_random_seed(None if seed is None else seed + current_group().rank * self.n_envs)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        if self.policy.detach_memory and self.bptt_segments != 1:
            raise ValueError(
                "A model with `detach_memory=True` must be loaded with `bptt_segments=1` to be trained in "
                f"sb3_elmur.RecurrentPPO. Received {self.bptt_segments}."
            )
        return super()._setup_learn(*args, **kwargs)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Act as :meth:`sb3_elmur.ElmurPolicy.predict`, while :meth:`learn` runs with averaged weights."""
        if action_masks is not None and state is None:
            check_no_state_lost(episode_start)
        elif action_masks is None and self._mask_env is not None:
            action_masks = get_action_masks(self._mask_env)
        return self.averaged_policy.predict(observation, state, episode_start, deterministic, action_masks)

    @contextmanager
    def masked_by(self, env: GymEnv) -> Iterator[None]:
        """
        While it lasts, :meth:`predict` takes the masks of an environment, if it has any and none are given.

        :param env: Where the model acts.
        """
        before, self._mask_env = self._mask_env, env if has_masks(env) else None
        try:
            yield
        finally:
            self._mask_env = before

    @property
    def averaged_policy(self) -> ElmurPolicy:
        """While :meth:`learn` runs, the policy with averaged weights; else the policy, which has them then."""
        return self.policy if self.average is None or self.average.trained is not None else self.average.policy

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """
        Weights of the policy, and the optimizer's state.

        :return: While :meth:`learn` runs the average of the weights, but :meth:`set_parameters` sets those that train.
        """
        return super().get_parameters() | {"policy": self.averaged_policy.state_dict()}

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Fill the rollout buffer.

        The chains that are open at its start are first replayed with the present weights, so that the rollout sees what
        training will replay.

        :param env: Training environments.
        :param callback: Called at every step, and at the beginning and the end.
        :param rollout_buffer: The segment rollout buffer.
        :param n_rollout_steps: Steps per environment.
        :return: False if the callback stopped it.
        """
        assert isinstance(rollout_buffer, SegmentRolloutBuffer)
        assert self._last_obs is not None, "No previous observation was provided"
        group = current_group()
        self.policy.set_training_mode(False)
        callback.on_rollout_start()  # the last rollout is still there
        obs: Any = self._last_obs
        starts: Any = self._last_episode_starts
        group.copy_first(self.policy)  # which callbacks may have changed
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        rollout_buffer.reset()
        with th.no_grad():
            lstm_states = self.policy.reopen(*rollout_buffer.open_chains(starts))
        self.state = lstm_states
        masking = self.use_masking and has_masks(env)
        bonuses = np.zeros_like(rollout_buffer.rewards)

        for n_steps in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            with th.no_grad():
                obs_tensor = obs_as_tensor(obs, self.device)
                episode_starts = th.as_tensor(starts, device=self.device)
                action_masks = get_action_masks(env) if masking else None
                actions, values, log_probs, lstm_states = self.policy(
                    obs_tensor, lstm_states, episode_starts, action_masks=action_masks
                )
            self.state = lstm_states
            actions = actions.cpu().numpy()
            clipped_actions = actions
            if isinstance(self.action_space, spaces.Box):
                clipped_actions = self.policy.to_bounds(actions)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            self.num_timesteps += env.num_envs * group.size
            check_rewards(rewards, self.num_timesteps)

            callback.update_locals(locals())  # under the host's names
            continue_training = callback.on_step()
            self._update_info_buffer(infos, dones)
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.reshape(-1, 1)
            self._bootstrap_timeouts(bonuses[n_steps], dones, infos, lstm_states)
            rollout_buffer.add(obs, actions, rewards, starts, values, log_probs, lstm_states.memories, action_masks)
            obs, starts = self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
            if not continue_training:
                self._discounted_returns = np.zeros(0)  # those of this rollout are lost
                return False

        with th.no_grad():
            obs_tensor = obs_as_tensor(obs, self.device)
            episode_starts = th.as_tensor(starts, device=self.device)
            values = self.policy.predict_values(obs_tensor, lstm_states, episode_starts)
        if self.scale_rewards:
            self._discounted_returns = divide_rewards(rollout_buffer, starts, self._discounted_returns, self.return_rms, group)
        rollout_buffer.rewards += bonuses
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=starts)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return not group.from_first(lambda: self._stopped)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "state", "average", "_mask_env", "_stopped"]

    def train(self) -> None:
        """
        Update the policy from the rollout buffer, as the host does, within the trust region.

        :raises FloatingPointError: If weights are not finite afterwards.
        """
        try:
            within = nullcontext() if self.trust_region is None else training_within(self, self.trust_region)
            with within, updating_jointly(self):
                super().train()
        except ValueError:  # what PyTorch's distributions raise when weights are not finite
            self._check_weights()
            raise
        self._check_weights()
        if self.average is not None:
            self.average.follow(self.policy, self.averaging)
        losses = [backbone.core.aux_loss for backbone in self.policy.backbones]
        balanced = [loss.item() for loss in losses if loss is not None]
        if balanced:
            self.logger.record("train/aux_loss", float(np.mean(balanced)))

    def _check_weights(self) -> None:
        check_weights(self.policy, f"after update {self._n_updates}, within {self.num_timesteps} steps")

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save as the host does; a model whose weights are not finite raises ``FloatingPointError`` and replaces no file."""
        self._check_weights()
        super().save(*args, **kwargs)

    def _update_learning_rate(self, optimizers: Optimizer | list[Optimizer]) -> None:
        super()._update_learning_rate(optimizers)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group["lr"] *= group.get("share", 1.0)

    def _bootstrap_timeouts(self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict], state: PolicyState) -> None:
        """Set the rewards of episodes that a time limit cut to the discounted value of the last observation, in one call."""
        cut = [
            i
            for i in np.flatnonzero(dones)
            if infos[i].get("terminal_observation") is not None and infos[i].get("TimeLimit.truncated", False)
        ]
        if not cut:
            return
        last = [infos[i]["terminal_observation"] for i in cut]
        obs, _ = self.policy.obs_to_tensor(map_observations(lambda *arrays: np.stack(arrays), *last))
        rows = th.as_tensor(cut, device=self.device)
        with th.no_grad():
            values: Tensor = self.policy.predict_values(obs, state.rows(rows), th.zeros_like(rows))
        rewards[cut] = self.gamma * values.flatten().cpu().numpy()

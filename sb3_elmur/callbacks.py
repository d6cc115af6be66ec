"""
Callbacks of Stable-Baselines3.

One looks into the memory while RecurrentPPO trains, one evaluates with action masks, one makes noisy actions precise.
"""

import math
from typing import Any

import numpy as np
import torch as th
from sb3_contrib import RecurrentPPO as HostRecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_elmur.core.arguments import check_count, check_range
from sb3_elmur.core.memory import Memory, reset_memory
from sb3_elmur.masks import has_masks
from sb3_elmur.monitoring.monitor import MemoryMonitor
from sb3_elmur.ppo import RecurrentPPO
from sb3_elmur.spaces import map_observations
from sb3_elmur.training.trust_region import DEFAULT_SIZE, kl_limit, rollout_kl

N_SEGMENTS = 32  # of a measurement
N_TIMES = 8  # from which they are, for environments may be in step
SMALLEST_STD, SMALLEST_FRACTION = 1e-6, 1e-6
SMALLEST_LIMIT = 1e-12  # nats


class MemoryCallback(BaseCallback):
    """
    Logs what the memory does while :class:`sb3_elmur.RecurrentPPO`, or sb3-contrib's, trains, and warns of failures.

    A measurement runs some 32 segments of a rollout once more. It draws no random numbers and changes nothing: training goes
    on as without it. ``docs/metrics.md`` explains what is logged.

    :param interval: Environment steps between measurements, rounded up to whole rollouts.
    :param panels_every: Measurements between histograms and attention heat maps, for TensorBoard alone; 0 for none.
    :param verbose: See :class:`stable_baselines3.common.callbacks.BaseCallback`.
    :raises ValueError: If an argument is out of range, or, when training starts, the policy has no ELMUR memory.
    """

    model: HostRecurrentPPO

    def __init__(self, interval: int = 4096, panels_every: int = 20, verbose: int = 0) -> None:
        super().__init__(verbose)
        check_count("interval", interval, 1)
        check_count("panels_every", panels_every, 0)
        self.interval, self.panels_every = interval, panels_every
        self._monitor: MemoryMonitor | None = None
        self._next_measurement = 0
        self._time = 0  # steps in the rollout
        # by the step after which it is kept, of some environments; none if the rollout is not measured
        self._memories: dict[int, Memory | None] = {}

    def _on_training_start(self) -> None:
        policy: Any = self.model.policy
        self._monitor = MemoryMonitor(policy, self.logger, self.panels_every)
        self._next_measurement, self._memories = self.num_timesteps, {}

    def _on_rollout_start(self) -> None:
        assert self._monitor is not None
        if self._memories:
            self._monitor.observe_gradient()
            if isinstance(self.model, RecurrentPPO):
                self._monitor.observe_update(self._update_size(self.model))
        self._time, self._memories = 0, {}
        if self.num_timesteps >= self._next_measurement:
            self._next_measurement = self.num_timesteps + self.interval
            self._memories = dict.fromkeys(self._times())

    def _update_size(self, model: RecurrentPPO) -> float:
        """KL divergence of the last update, before anything was taken back, in units of what the policy can bear."""
        logged = self.logger.name_to_value
        if model.trust_region is None:
            kl, limit = rollout_kl(model), kl_limit(model, DEFAULT_SIZE)
        else:
            kl, limit = logged["train/rollout_kl"], logged["train/kl_limit"]
        return kl / max(limit, SMALLEST_LIMIT)

    def _times(self) -> list[int]:
        """Steps of a rollout, such that the segments that are open after them lie within it."""
        assert self._monitor is not None
        length, n_steps = self._monitor.core.segment_length, self.model.n_steps
        earliest = min(max(length - 2, 0), n_steps - 1)
        latest = max(n_steps - 1 - length, earliest)
        count = min(max(N_TIMES, -(-N_SEGMENTS // self.model.n_envs)), 1 + latest - earliest)
        return np.linspace(earliest, latest, count).astype(int).tolist()

    def _environments(self) -> np.ndarray:
        """Whose segments are measured: row i after the i-th of the times."""
        n_envs, n_times = self.model.n_envs, len(self._memories)
        n_rows = min(-(-N_SEGMENTS // n_times), n_envs)
        return np.arange(n_times * n_rows).reshape(n_times, n_rows) % n_envs

    def _on_step(self) -> bool:
        if self._time in self._memories:
            rows = th.as_tensor(self._environments()[list(self._memories).index(self._time)], device=self.model.device)
            self._memories[self._time] = self._memory().rows(rows)
        self._time += 1
        return True

    def _memory(self) -> Memory:
        """The actor's memory after the present step."""
        if isinstance(self.model, RecurrentPPO):
            assert self.model.state is not None
            return self.model.state.pi.memory
        assert self._monitor is not None
        backbone = self._monitor.policy.backbone
        return backbone.layout.unpack(self.locals["lstm_states"].pi, backbone.core.initial_slots)[0]

    def _on_rollout_end(self) -> None:
        if not self._memories:
            return
        assert self._monitor is not None
        buffer, core = self.model.rollout_buffer, self._monitor.core
        memory = Memory(*map(th.cat, zip(*self._memories.values(), strict=True)))
        env = self._environments()
        after = 1 + np.repeat(list(self._memories), env.shape[1])
        env = env.flatten()
        begin = after - memory.position.cpu().numpy() % core.segment_length  # of the segments
        time = begin[:, None] + np.arange(core.segment_length)
        outside = (time < 0) | (time >= self.model.n_steps)
        time = time.clip(0, self.model.n_steps - 1)
        starts = buffer.episode_starts[time, env[:, None]].astype(bool)
        outside[:, 1:] |= starts[:, 1:]
        lengths = (~outside).cumprod(axis=1).sum(1)
        if not lengths.any():
            return
        memory = reset_memory(memory, core.initial_slots, th.as_tensor(starts[:, 0], device=self.model.device))
        time = time[:, : lengths.max()]

        def select(observations: np.ndarray) -> th.Tensor:
            return buffer.to_torch(observations[time, env[:, None]].reshape(-1, *observations.shape[2:]))

        obs = map_observations(select, buffer.observations)
        self._monitor.observe(obs, memory, th.as_tensor(lengths, device=self.model.device))


class MaskableEvalCallback(EvalCallback):
    """
    Evaluates a :class:`sb3_elmur.RecurrentPPO` with action masks, if the environment has any.

    It takes the place of sb3-contrib's, which loses the recurrent state. Other models are evaluated as by ``EvalCallback``.

    :param args: See :class:`stable_baselines3.common.callbacks.EvalCallback`, as for ``kwargs``.
    :param use_masking: Whether to use the masks.
    :param kwargs: Its further arguments.
    """

    def __init__(self, *args: Any, use_masking: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.use_masking = use_masking

    def _init_callback(self) -> None:
        super()._init_callback()
        self._masked = self.use_masking and isinstance(self.model, RecurrentPPO) and has_masks(self.eval_env)

    def _on_step(self) -> bool:
        model: Any = self.model
        acting: Any = _Masked(model, self.eval_env) if self._masked else model
        self.model = acting
        try:
            return super()._on_step()
        finally:
            self.model = model


class _Masked:
    """A model that acts with the masks of an environment, for whoever holds this object in its place."""

    def __init__(self, model: RecurrentPPO, env: VecEnv) -> None:
        self._model, self._env = model, env

    def predict(self, *arguments: Any, **named: Any) -> Any:
        with self._model.masked_by(self._env):
            return self._model.predict(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class ActionNoiseDecay(BaseCallback):
    """
    Sets the standard deviation of continuous actions by a schedule, instead of training it.

    It falls from that of the policy's ``log_std_init`` to ``final_std``, by the same factor in every step, and stays there.
    What is smaller already, as in a cloned policy, is not raised. Where training is interrupted it stays untrained, until
    ``policy.log_std.requires_grad_(True)``.

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

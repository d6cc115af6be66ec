"""torchrl's GRU on the environments of Stable-Baselines3, for ``training_speed.py`` (``pip install torchrl==0.14.1``)."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch as th
from contestants import LEARNING_RATE, N_EPOCHS, N_STEPS, PPO_ARGUMENTS, Measurement, count_parameters, synchronizer
from stable_baselines3.common.vec_env import VecEnv
from torch import nn


class TorchrlContestant:
    """
    torchrl's clipped PPO with one GRU for actor and critic, on the environments of the other contestants.

    Its minibatches are whole rollouts of some environments.

    :param venv: environments
    :param width: width of the GRU
    :param batch_size: steps per minibatch
    :param device: torch device
    """

    def __init__(self, venv: VecEnv, width: int, batch_size: int, device: str) -> None:
        torchrl = import_torchrl()
        self._model, self._n_envs, self._at_once = torchrl_gru(venv, width, device), venv.num_envs, batch_size // N_STEPS
        self.parameters = count_parameters(self._model)
        actor, critic = self._model.get_policy_operator(), self._model.get_value_operator()
        env = torchrl_env(venv, device).append_transform(self._model.module[0].make_tensordict_primer())
        gamma, gae_lambda = PPO_ARGUMENTS["gamma"], PPO_ARGUMENTS["gae_lambda"]
        self._advantages = torchrl.objectives.value.GAE(
            gamma=gamma, lmbda=gae_lambda, value_network=critic, deactivate_vmap=True
        )
        self._loss = torchrl.objectives.ClipPPOLoss(
            actor,
            critic,
            clip_epsilon=PPO_ARGUMENTS["clip_range"],
            entropy_bonus=False,
            critic_coeff=PPO_ARGUMENTS["vf_coef"],
            normalize_advantage=True,
        )
        self._optimizer = th.optim.Adam(self._model.parameters(), LEARNING_RATE)
        self._rollouts = iter(
            torchrl.collectors.Collector(env, actor, frames_per_batch=N_STEPS * venv.num_envs, total_frames=-1)
        )
        self._recurrent = torchrl.modules.set_recurrent_mode
        self._synchronize = synchronizer(device)

    def train(self, n_epochs: int | None = None) -> Measurement:
        """Collect one rollout and update on it, in as many epochs as it has, or in others."""
        start = time.perf_counter()
        rollout = next(self._rollouts)
        self._synchronize()
        collected = time.perf_counter()
        with self._recurrent("recurrent"):
            with th.no_grad():
                self._advantages(rollout)
            for _ in range(n_epochs or N_EPOCHS):
                for chosen in th.randperm(self._n_envs).split(self._at_once):
                    losses = self._loss(rollout[chosen])
                    self._optimizer.zero_grad()
                    (losses["loss_objective"] + losses["loss_critic"]).backward()
                    nn.utils.clip_grad_norm_(self._model.parameters(), PPO_ARGUMENTS["max_grad_norm"])
                    self._optimizer.step()
        self._synchronize()
        end = time.perf_counter()
        return Measurement(end - start, collected - start, end - collected, int(rollout["next", "done"].sum()))


def import_torchrl() -> Any:
    """
    Return torchrl with the submodules used here.

    :raises ImportError: if it is not installed
    """
    try:
        import torchrl
        import torchrl.collectors
        import torchrl.data
        import torchrl.envs
        import torchrl.modules
        import torchrl.objectives.value
    except ImportError as error:
        raise ImportError("torchrl is missing: `pip install torchrl==0.14.1`, or leave it out of --contestants.") from error
    warnings.filterwarnings("ignore", module="torchrl|tensordict")
    return torchrl


def torchrl_env(venv: VecEnv, device: str) -> Any:
    """Return torchrl's view of a ``VecEnv``, a thin adapter, so that all contestants step the same environments."""
    torchrl = import_torchrl()
    from tensordict import TensorDict

    n_envs = venv.num_envs

    class VecEnvAdapter(torchrl.envs.EnvBase):
        def __init__(self) -> None:
            super().__init__(device=device, batch_size=[n_envs])
            data, flag = torchrl.data, torchrl.data.Binary(1, shape=(n_envs, 1), dtype=th.bool)
            space: Any = venv.action_space
            self.observation_spec = data.Composite(
                observation=data.Unbounded((n_envs, *venv.observation_space.shape)), shape=(n_envs,)
            )
            self.action_spec = data.Categorical(space.n, shape=(n_envs,))
            self.reward_spec = data.Unbounded((n_envs, 1))
            self.full_done_spec = data.Composite(done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=(n_envs,))
            self._observations: th.Tensor | None = None

        def _reset(self, tensordict: Any = None, **kwargs: Any) -> Any:
            if self._observations is None:  # later, environments reset themselves
                self._observations = self._tensor(venv.reset())
            return TensorDict({"observation": self._observations.clone()}, self.batch_size)

        def _step(self, tensordict: Any) -> Any:
            observations, rewards, dones, infos = venv.step(tensordict["action"].cpu().numpy())
            truncated = np.array([done and info["TimeLimit.truncated"] for done, info in zip(dones, infos, strict=True)])
            self._observations = self._tensor(observations)
            last = self._observations.clone()
            for ended in np.flatnonzero(dones):
                last[ended] = self._tensor(infos[ended]["terminal_observation"])
            flags = {"done": dones, "terminated": dones & ~truncated, "truncated": truncated}
            columns = {name: self._tensor(part)[:, None] for name, part in ({"reward": rewards} | flags).items()}
            return TensorDict({"observation": last} | columns, self.batch_size)

        def _set_seed(self, seed: int | None) -> None:
            venv.seed(seed)

        def _tensor(self, array: np.ndarray) -> th.Tensor:
            return th.as_tensor(array, device=self.device)

    return torchrl.envs.TransformedEnv(VecEnvAdapter(), torchrl.envs.InitTracker())


def torchrl_gru(venv: VecEnv, width: int, device: str) -> Any:
    """
    Return one GRU for actor and critic after torchrl's tutorial, with the networks of SB3's default ``net_arch`` behind it.

    :param venv: environments
    :param width: width of the GRU
    :param device: torch device
    :return: torchrl's ``ActorValueOperator``
    """
    torchrl = import_torchrl()
    from tensordict.nn import TensorDictModule

    def head(n_outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, n_outputs))

    space: Any = venv.observation_space
    actions: Any = venv.action_space
    modules = torchrl.modules
    gru = modules.GRUModule(
        input_size=space.shape[0], hidden_size=width, in_key="observation", out_key="latent", device=device
    )
    actor = modules.ProbabilisticActor(
        TensorDictModule(head(actions.n), in_keys=["latent"], out_keys=["logits"]),
        in_keys=["logits"],
        out_keys=["action"],
        distribution_class=th.distributions.Categorical,
        return_log_prob=True,
    )
    return modules.ActorValueOperator(gru, actor, modules.ValueOperator(head(1), in_keys=["latent"])).to(device)

"""skrl's PPO with GRUs on the environments of Stable-Baselines3, for ``training_speed.py`` (``pip install skrl==2.1.1``)."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import torch as th
from contestants import LEARNING_RATE, N_EPOCHS, N_STEPS, PPO_ARGUMENTS, Measurement, Stopwatch, count_parameters, synchronizer
from stable_baselines3.common.vec_env import VecEnv
from torch import nn


class SkrlContestant:
    """
    skrl's PPO_RNN with a GRU, driven by skrl's SequentialTrainer on the environments of the other contestants.

    :param venv: environments
    :param width: width of the GRU
    :param sequence_length: steps through which gradients flow
    :param shared: one GRU, run once for actor and critic, instead of one for each
    :param batch_size: steps per minibatch
    :param device: torch device
    """

    def __init__(self, venv: VecEnv, width: int, sequence_length: int, shared: bool, batch_size: int, device: str) -> None:
        skrl = import_skrl()
        env = skrl_env(venv, device)
        models = [skrl_gru(env, width, sequence_length, roles, device) for roles in skrl_roles(shared)]
        self.parameters = sum(count_parameters(model) for model in models)
        self._memory = skrl.memories.torch.RandomMemory(memory_size=N_STEPS, num_envs=venv.num_envs, device=device)
        self._agent = skrl.agents.torch.ppo.PPO_RNN(
            models={"policy": models[0], "value": models[-1]},
            memory=self._memory,
            observation_space=env.observation_space,
            action_space=env.action_space,
            device=device,
            cfg=dict(
                rollouts=N_STEPS,
                mini_batches=N_STEPS * venv.num_envs // batch_size,
                learning_rate=LEARNING_RATE,
                discount_factor=PPO_ARGUMENTS["gamma"],
                gae_lambda=PPO_ARGUMENTS["gae_lambda"],
                ratio_clip=PPO_ARGUMENTS["clip_range"],
                entropy_loss_scale=PPO_ARGUMENTS["ent_coef"],
                value_loss_scale=PPO_ARGUMENTS["vf_coef"],
                grad_norm_clip=PPO_ARGUMENTS["max_grad_norm"],
                value_clip=0.0,
                time_limit_bootstrap=True,
                experiment=dict(write_interval=0, checkpoint_interval=0),
            ),
        )
        self._trainer = skrl.trainers.torch.SequentialTrainer(
            env=env,
            agents=self._agent,
            cfg=dict(timesteps=N_STEPS, headless=True, disable_progressbar=True, close_environment_at_exit=False),
        )
        self._synchronize = synchronizer(device)
        self._update = Stopwatch(self._agent, "update", self._synchronize)

    def train(self, n_epochs: int | None = None) -> Measurement:
        """Collect one rollout and update on it, in as many epochs as it has, or in others."""
        th.distributions.Distribution.set_default_validate_args(False)  # as skrl does when it is imported
        self._agent.cfg.learning_epochs = n_epochs or N_EPOCHS
        start = time.perf_counter()
        self._trainer.train()
        total = time.perf_counter() - start
        ends = self._memory.get_tensor_by_name("terminated") | self._memory.get_tensor_by_name("truncated")
        return Measurement(total, total - self._update.seconds, self._update.seconds, int(ends.sum()))


def import_skrl() -> Any:
    """
    Return skrl with the submodules used here.

    :raises ImportError: if it is not installed
    """
    try:
        import skrl
        import skrl.agents.torch.ppo
        import skrl.envs.wrappers.torch
        import skrl.memories.torch
        import skrl.models.torch
        import skrl.trainers.torch
    except ImportError as error:
        raise ImportError("skrl is missing: `pip install skrl==2.1.1`, or leave it out of --contestants.") from error
    skrl.logger.setLevel("ERROR")
    return skrl


def skrl_roles(shared: bool) -> list[tuple[str, ...]]:
    """Return the roles of each model."""
    return [("policy", "value")] if shared else [("policy",), ("value",)]


def skrl_env(venv: VecEnv, device: str) -> Any:
    """Return skrl's view of a ``VecEnv``, a thin adapter, so that all contestants step the same environments."""
    skrl = import_skrl()

    class VecEnvWrapper(skrl.envs.wrappers.torch.Wrapper):
        def __init__(self) -> None:
            super().__init__(venv)
            self._device = th.device(device)
            self._observations: th.Tensor | None = None

        def reset(self) -> tuple[th.Tensor, dict[str, Any]]:
            if self._observations is None:  # later, environments reset themselves
                self._observations = self._tensor(venv.reset())
            return self._observations, {}

        def step(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor, dict[str, Any]]:
            observations, rewards, dones, infos = venv.step(actions.flatten().cpu().numpy())
            truncated = np.array([done and info["TimeLimit.truncated"] for done, info in zip(dones, infos, strict=True)])
            self._observations = self._tensor(observations)
            columns = (self._tensor(part)[:, None] for part in (rewards, dones & ~truncated, truncated))
            return self._observations, *columns, {}

        def _tensor(self, array: np.ndarray) -> th.Tensor:
            return th.as_tensor(array, device=self._device)

        def state(self) -> None:
            return None

        def render(self) -> None:
            return None

        def close(self) -> None:
            venv.close()

    return VecEnvWrapper()


def skrl_gru(env: Any, width: int, sequence_length: int, roles: tuple[str, ...], device: str) -> Any:
    """
    Return a model after skrl's documented example of a GRU, with the networks of SB3's default ``net_arch`` behind it.

    :param env: what :func:`skrl_env` returned
    :param width: width of the GRU
    :param sequence_length: steps through which gradients flow
    :param roles: "policy", "value" or both; if both, the value reuses the GRU's output for the policy
    :param device: torch device
    """
    skrl = import_skrl()
    categorical, deterministic = skrl.models.torch.CategoricalMixin, skrl.models.torch.DeterministicMixin

    class Gru(categorical, deterministic, skrl.models.torch.Model):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            skrl.models.torch.Model.__init__(
                self, observation_space=env.observation_space, action_space=env.action_space, device=device
            )
            categorical.__init__(self)
            deterministic.__init__(self)
            self.gru = nn.GRU(self.num_observations, width, batch_first=True)
            outputs = {"policy": self.num_actions, "value": 1}
            self.heads = nn.ModuleDict({role: self._head(outputs[role]) for role in roles})
            self._latent: tuple[th.Tensor, th.Tensor] | None = None

        @staticmethod
        def _head(n_outputs: int) -> nn.Module:
            return nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, n_outputs))

        def get_specification(self) -> dict[str, Any]:
            return {"rnn": {"sequence_length": sequence_length, "sizes": [(1, env.num_envs, width)]}}

        def act(self, inputs: dict[str, Any], *, role: str = "") -> tuple[th.Tensor, dict[str, Any]]:
            return (categorical if role == "policy" else deterministic).act(self, inputs, role=role)

        def compute(self, inputs: dict[str, Any], role: str) -> tuple[th.Tensor, dict[str, Any]]:
            latent, hidden = self._run(inputs) if self._latent is None else self._latent
            self._latent = (latent, hidden) if role == "policy" and "value" in roles else None
            return self.heads[role](latent), {"rnn": [hidden]}

        def _run(self, inputs: dict[str, Any]) -> tuple[th.Tensor, th.Tensor]:
            hidden = inputs["rnn"][0]
            if not self.training:
                output, hidden = self.gru(inputs["observations"][:, None], hidden)
                return output[:, 0], hidden
            x = inputs["observations"].unflatten(0, (-1, sequence_length))
            hidden = hidden.unflatten(1, (-1, sequence_length))[:, :, 0].contiguous()
            ends = (inputs["terminated"] | inputs["truncated"]).view(-1, sequence_length)
            borders = [0, *(ends[:, :-1].any(dim=0).nonzero()[:, 0] + 1).tolist(), sequence_length]
            outputs = []
            for start, stop in itertools.pairwise(borders):
                output, hidden = self.gru(x[:, start:stop], hidden)
                hidden = hidden.masked_fill(ends[:, stop - 1, None], 0)
                outputs.append(output)
            return th.cat(outputs, dim=1).flatten(0, 1), hidden

    return Gru()

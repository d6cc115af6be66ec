"""Many episodes of one MIKASA-Robo task that are played together, as a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

from ..arguments import check_integer
from ..native import BatchVecEnv
from .episodes import ACTION_SHAPE, SEED_LIMIT, Episodes, MikasaConfig, check_actions
from .observations import IMAGE_MODES, without_key


class MikasaVecEnv(BatchVecEnv):
    """
    ``n_envs`` episodes of one task that ManiSkill simulates together.

    All begin together and last until the task's limit, as the suite plays them: on an NVIDIA GPU, from which observations,
    rewards and successes of a step come in one copy, or on the CPU, without images. Seeds repeat the episodes of a batch. They
    begin elsewhere than those of ``MikasaEnv`` with the same seeds, since the suite draws places from one random stream for
    the whole batch, and lets all arms begin alike. From the same beginning an episode on the CPU is that of ``MikasaEnv`` to
    the last digit. With one environment everything is the same.

    :param n_envs: Number of environments; more than one with images need an NVIDIA GPU.
    :param task: One of ``TASKS``.
    :param obs_mode: See ``MikasaEnv``, as for the next two.
    :param reward_mode: "dense" or "sparse".
    :param camera_size: Height and width of images in pixels.
    :param delta_time: Steps between the cue and the choice, or None.
    :param seed: Seed of the first environment; None seeds from the operating system.
    :raises ValueError: For an argument that is none of these, or several environments with images without a GPU.
    :raises DependencyNotInstalled: See ``MikasaEnv``.
    """

    render_mode = None

    def __init__(
        self,
        n_envs: int,
        task: str,
        obs_mode: str = "state_cue",
        reward_mode: str = "dense",
        camera_size: int = 128,
        delta_time: int | None = None,
        seed: int | None = None,
    ) -> None:
        n_envs = check_integer("n_envs", n_envs, minimum=1)
        self.config = MikasaConfig(task, obs_mode, reward_mode, camera_size, delta_time)
        if n_envs > 1 and not self.supports(obs_mode=obs_mode):
            raise ValueError(
                f"`n_envs` must be 1 for images without an NVIDIA GPU; a SubprocVecEnv of MikasaEnv plays several. "
                f"Received {n_envs}."
            )
        self.episodes = Episodes(self.config, n_envs)
        super().__init__(n_envs, self.episodes.observation_space, self.episodes.action_space, seed)
        self._actions = np.zeros((n_envs, *ACTION_SHAPE), dtype=np.float32)

    @classmethod
    def supports(cls, render_mode: str | None = None, obs_mode: str = "state_cue", **arguments: Any) -> bool:
        """
        Tell whether several environments of these arguments can be played together: not drawn, and images on a GPU alone.

        :param render_mode: Of ``MikasaEnv``.
        :param obs_mode: Of ``MikasaEnv``.
        :param arguments: Its other arguments.
        :return: Whether this batch plays them.
        """
        return render_mode is None and (obs_mode not in IMAGE_MODES or th.cuda.is_available())

    def reset(self) -> VecEnvObs:
        """
        Start an episode in every environment, with the seeds given since the last reset.

        :return: Observations, each (n_envs, ...).
        """
        seeds = [drawn if given is None else given for drawn, given in zip(self._draw_seeds(), self._seeds, strict=True)]
        self._begin()
        return without_key(to_host(self.episodes.reset(seeds)))

    def step_async(self, actions: np.ndarray) -> None:
        """
        Take the actions of the next step.

        :param actions: (n_envs, 8), clipped to [-1, 1].
        :raises ResetNeeded: Before the first reset.
        :raises ValueError: If they are something else.
        """
        self._require_reset()
        self._actions = check_actions(actions, self._actions.shape)

    def step_wait(self) -> VecEnvStepReturn:
        """
        Take the step that :meth:`step_async` said; at the limit all environments start their next episodes.

        :return: Observations, rewards and dones, each (n_envs, ...), and one info per environment.
        """
        step = self.episodes.step(self._actions)
        measured = {"reward": step.reward, "success": step.success, "succeeded": step.succeeded}
        ended = self.episodes.ended
        next_observation = (
            {f"next {key}": values for key, values in self.episodes.reset(self._draw_seeds()).items()} if ended else {}
        )
        host = to_host(step.observation | measured | next_observation)
        infos: list[dict[str, Any]] = [
            {"TimeLimit.truncated": ended, "is_success": succeeded, "success_at_end": success}
            for succeeded, success in zip(host.pop("succeeded").tolist(), host.pop("success").tolist(), strict=True)
        ]
        rewards = host.pop("reward")
        if ended:
            for i, info in enumerate(infos):
                info["terminal_observation"] = without_key({key: host[key][i] for key in step.observation})
            host = {key: host[f"next {key}"] for key in step.observation}
        return without_key(host), rewards, np.full(self.num_envs, ended), infos

    def close(self) -> None:
        """Release the simulation."""
        self.episodes.simulation.close()

    def _draw_seeds(self) -> list[int]:
        """Draw the seeds of the next episodes."""
        return [int(rng.integers(SEED_LIMIT)) for rng in self._rngs]


def to_host(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """
    Copy tensors of any types from their common device in one go.

    :param tensors: By name.
    :return: Arrays of the same shapes and types, which share one new block of memory.
    """
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())  # so that each begins where its type may
    flat = [values.contiguous().view(-1).view(th.uint8) for _, values in ordered]  # each (bytes,)
    block = th.cat(flat).cpu().numpy()
    arrays, begin = {}, 0
    for (name, values), part in zip(ordered, flat, strict=True):
        dtype = th.zeros((), dtype=values.dtype).numpy().dtype
        arrays[name] = block[begin : begin + part.numel()].view(dtype).reshape(tuple(values.shape))
        begin += part.numel()
    return arrays

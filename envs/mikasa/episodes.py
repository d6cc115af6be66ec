"""Episodes of one MIKASA-Robo task that run in step, as tensors on the simulator's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor

from ..arguments import check_integer
from .observations import IMAGE_MODES, OBS_MODES, observation_space
from .simulation import REWARDS, make_simulation
from .stage import make_stage
from .tasks import TASKS, Task

ACTION_SHAPE = (8,)  # seven joints and the gripper
SMALLEST_IMAGE = 16
SEED_LIMIT = 2**31


@dataclass(frozen=True)
class MikasaConfig:
    """
    What is played, and what of it is seen.

    :param task: One of ``TASKS``.
    :param obs_mode: One of ``OBS_MODES``.
    :param reward_mode: "dense" or "sparse".
    :param camera_size: Height and width of images in pixels.
    :param delta_time: Steps between the cue and the choice; None stands for the suite's.
    :raises ValueError: For another value.
    """

    task: str
    obs_mode: str = "state_cue"
    reward_mode: str = "dense"
    camera_size: int = 128
    delta_time: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("task", TASKS), ("obs_mode", OBS_MODES), ("reward_mode", REWARDS)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}. Received {value!r}.")
        object.__setattr__(self, "camera_size", check_integer("camera_size", self.camera_size, minimum=SMALLEST_IMAGE))
        if self.delta_time is None:
            object.__setattr__(self, "delta_time", self.spec.delta_time)
        elif self.spec.delta_time is None:
            raise ValueError(
                f"`delta_time` must be None in {self.task}, whose phases are fixed. Received {self.delta_time!r}."
            )
        else:
            object.__setattr__(self, "delta_time", check_integer("delta_time", self.delta_time, minimum=1))

    @property
    def spec(self) -> Task:
        """The task's own facts."""
        return TASKS[self.task]

    @property
    def own_observation(self) -> str:
        """The suite's own observation that is needed: images, its state, or "none"."""
        if self.obs_mode in IMAGE_MODES:
            return "rgb"
        return "state" if self.obs_mode == "state" or self.spec.observes else "none"

    @property
    def limit(self) -> int:
        """Steps of an episode, of which there are as many more as the cue must be kept longer than in the suite."""
        return self.spec.limit + (self.delta_time or 0) - (self.spec.delta_time or 0)


class Step(NamedTuple):
    """
    What a step of B episodes brings, as tensors.

    :param observation: By key, each (B, ...).
    :param reward: (B,) float.
    :param success: Whether the task is solved at the moment, (B,) bool.
    :param succeeded: Whether it has been at any moment of the episode, (B,) bool.
    """

    observation: dict[str, Tensor]
    reward: Tensor
    success: Tensor
    succeeded: Tensor


class Episodes:
    """
    B episodes that begin together and all last until the task's limit: success does not end them.

    The suite draws the hidden targets of all episodes whenever it resets any, so that no other way would be right.

    :param config: What is played.
    :param n_envs: Number of episodes B.
    :param render_mode: Of ManiSkill.
    """

    def __init__(self, config: MikasaConfig, n_envs: int, render_mode: str | None = None) -> None:
        self.config, self.task = config, config.spec
        self.simulation = make_simulation(
            config.task, n_envs, config.reward_mode, config.own_observation, config.camera_size, config.delta_time, render_mode
        )
        self.stage = make_stage(self.simulation)
        self.elapsed = 0
        self.succeeded = th.zeros(n_envs, dtype=th.bool, device=self.simulation.device)
        self.action_space = spaces.Box(-1.0, 1.0, ACTION_SHAPE, np.float32)
        self.observation_space = observation_space(self.reset(np.zeros(n_envs, dtype=np.int64)))

    @property
    def ended(self) -> bool:
        """Whether all steps are taken."""
        return self.elapsed == self.config.limit

    def reset(self, seeds: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """
        Start all episodes.

        :param seeds: Of each, from 0 to 2**32 - 1.
        :return: First observations.
        """
        self._clear()
        observed, _ = self.simulation.reset(seed=[int(seed) for seed in seeds])
        self.elapsed = 0
        self.succeeded = th.zeros_like(self.succeeded)
        return self._observe(observed)

    def step(self, actions: np.ndarray) -> Step:
        """
        Take a step in all episodes.

        :param actions: (B, 8), clipped to [-1, 1].
        :return: What it brings.
        """
        self._clear()
        clipped = th.as_tensor(actions, dtype=th.float32, device=self.simulation.device).clamp(-1.0, 1.0)
        observed, reward, _, _, info = self.simulation.step(clipped)
        self.elapsed += 1
        success = info["success"].bool()
        self.succeeded = self.succeeded | success
        return Step(self._observe(observed), reward.float(), success, self.succeeded)

    def _clear(self) -> None:
        if self.stage is not None:
            self.stage.clear()

    def _observe(self, observed: Any) -> dict[str, Tensor]:
        return OBS_MODES[self.config.obs_mode](self.simulation, observed, self.task)


def check_actions(actions: Any, shape: tuple[int, ...]) -> np.ndarray:
    """
    Check actions.

    :param actions: Numbers, of which those beyond [-1, 1] will be clipped.
    :param shape: The shape that they must have.
    :return: The same numbers as float32.
    :raises ValueError: For another shape, or for what is no finite number.
    """
    array = np.asarray(actions)
    if array.shape != shape or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ValueError(f"`actions` must be finite numbers of shape {shape}. Received {actions!r}.")
    return array.astype(np.float32)

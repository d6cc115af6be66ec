"""MIKASA-Robo's 32 tasks of a robot arm that must remember, for Gymnasium and Stable-Baselines3."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from torch import Tensor

from .episodes import ACTION_SHAPE, SEED_LIMIT, Episodes, MikasaConfig, check_actions
from .observations import without_key

Observation = np.ndarray | dict[str, np.ndarray]


class MikasaEnv(gymnasium.Env[Observation, np.ndarray]):
    """
    A task of MIKASA-Robo, in which a robot arm must act on what it saw earlier.

    ## Description
    One of the 32 tasks of MIKASA-Robo (https://arxiv.org/abs/2502.10550) for a Franka Panda, as the package
    ``mikasa_robo_suite`` plays them in ManiSkill 3 on the CPU. ``TASKS`` names them, such as "RememberColor3": a cube is
    shown for five steps, the table is empty for five, and then the cube of that colour must be touched among three.

    What the suite hides during an episode stays where it belongs physically. (Unpatched, 21 of the tasks are broken on the
    CPU: what is hidden falls out of the world.)

    ## Action Space
    ``Box(-1, 1, (8,))``: changes of the seven joints' positions, in tenths of a radian, and the gripper (1 open, -1 closed).
    Numbers beyond that are clipped.

    ## Observation Space
    By `obs_mode`:

    - "state_cue": ``Box`` of float32. The 25 numbers of the joints (pose of the tool, then positions and velocities of nine
      joints); then for each thing on the table whether it is seen (0 or 1) and where (x, y, z in metres, and for the peg its
      quaternion), zeros while it is hidden; then what the task tells (Rotate: the angle to turn by; TakeItBack: whether
      the goal was reached, which the cameras see by its colour). The answer is visible while the cue is, and only then, and
      no Vulkan driver is needed.
    - "state": ``Box`` of float32, the suite's own. It holds the oracle's answer at every step, so that nothing must be
      remembered.
    - "rgb": ``Dict`` with "rgb", ``(camera_size, camera_size, 6)`` of uint8, the images of the camera at the base and of that
      at the hand; for Rotate "task_cue", too, the angle.
    - "rgb_joints": the same, and "joints", the 25 numbers.

    ## Rewards
    `reward_mode` "dense" is the suite's, divided by its maximum, "sparse" is 1 at every step at which the task is solved.

    ## Starting State
    Drawn by the suite. ``reset(seed=s)`` plays the suite's episode of that seed.

    ## Episode End
    Truncated after 60 to 180 steps, as the suite does (`delta_time` moves that); success ends nothing. The infos say
    `is_success`, whether the task has been solved at any step so far, and `success_at_end`, whether it is at this one.

    ## Arguments
    - `task`: name of the task.
    - `obs_mode` ("state_cue"), `reward_mode` ("dense"): see above.
    - `camera_size` (128): height and width of the images in pixels.
    - `delta_time` (None): steps between the cue and the choice in the nine Remember tasks, 5 in the suite; the step limit
      moves along. The other tasks' phases are fixed.
    - `render_mode` (None): "rgb_array", a picture of the table beside those of the two cameras.

    ## Version History
    - v0: first version.

    :param task: One of ``TASKS``.
    :param obs_mode: "state_cue", "state", "rgb" or "rgb_joints".
    :param reward_mode: "dense" or "sparse".
    :param camera_size: Height and width of the images in pixels.
    :param delta_time: Steps between the cue and the choice, or None.
    :param render_mode: None or "rgb_array".
    :raises ValueError: For an argument that is none of these.
    :raises DependencyNotInstalled: Without ManiSkill, the suite, the shell games' mug, or a Vulkan driver where one is needed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        obs_mode: str = "state_cue",
        reward_mode: str = "dense",
        camera_size: int = 128,
        delta_time: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"`render_mode` must be None or 'rgb_array'. Received {render_mode!r}.")
        self.config = MikasaConfig(task, obs_mode, reward_mode, camera_size, delta_time)
        self.render_mode = render_mode
        self.episodes = Episodes(self.config, 1, None if render_mode is None else "all")
        self.observation_space = self.episodes.observation_space
        self.action_space = self.episodes.action_space
        self._expert: Any = None
        self._running = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """
        Start an episode.

        :param seed: Of the episode, at most 2**32 - 1, and of the ones after it; None draws the next one.
        :param options: Unused.
        :return: The first observation and an empty info.
        """
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(SEED_LIMIT)) if seed is None else seed
        observation = self.episodes.reset([drawn])
        self._running = True
        return single(observation), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """
        Take an action.

        :param action: Eight numbers, clipped to [-1, 1].
        :return: Observation, reward, terminated (never), truncated, and `is_success` and `success_at_end`.
        :raises ResetNeeded: Before the first reset and after the end of an episode.
        :raises ValueError: If ``action`` is something else.
        """
        self._require_running()
        step = self.episodes.step(check_actions(action, ACTION_SHAPE)[None])
        self._running = not self.episodes.ended
        info = {"is_success": bool(step.succeeded[0]), "success_at_end": bool(step.success[0])}
        return single(step.observation), float(step.reward[0]), False, self.episodes.ended, info

    def oracle_action(self) -> np.ndarray:
        """
        Return the action of the task's scripted expert, which knows the answer and where everything is.

        :return: Float32 of shape (8,).
        :raises ResetNeeded: Before the first reset and after the end of an episode.
        :raises ValueError: For a task without one.
        """
        self._require_running()
        if self._expert is None:
            self._expert = import_module(".experts", __package__).make_expert(self.config.task, self.episodes)
        return self._expert.act()

    def render(self) -> np.ndarray | None:
        """
        Draw the table, and what the two cameras see.

        :return: An RGB image in the mode "rgb_array", else None.
        """
        if self.render_mode is None:
            gymnasium.logger.warn("`render` does nothing without `render_mode='rgb_array'`.")
            return None
        return self.episodes.simulation.render()[0].cpu().numpy()

    def close(self) -> None:
        """Release the simulation."""
        self.episodes.simulation.close()

    def _require_running(self) -> None:
        if not self._running:
            raise ResetNeeded("No episode is running: call `reset` first.")


def single(observation: dict[str, Tensor]) -> Observation:
    """
    Take the observation of the only episode.

    :param observation: By key, each (1, ...).
    :return: Arrays of its own, each (...).
    """
    return without_key({key: values[0].cpu().numpy().copy() for key, values in observation.items()})

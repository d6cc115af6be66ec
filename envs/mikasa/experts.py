"""Scripted experts of MIKASA-Robo's tasks of touching the right things, which know the answer and where everything is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch as th

from .episodes import Episodes

DOWNWARDS = (0.0, 1.0, 0.0, 0.0)  # quaternion of the tool, real part first
RADIANS_PER_UNIT = 0.1  # of an action
HOVER = 0.16  # metres above a target at which the tool travels
NEAR = 0.03  # metres beside a target within which the tool goes down
OPEN = 1.0  # the gripper's action


class Expert(ABC):
    """
    Waits until the table shows everything, then touches one target after the other from above.

    Where the tool goes depends on where it is and on the target alone, so that an imitator can go there, too.

    :cvar HEIGHT: Metres above the target's origin at which it is touched.
    :param episodes: A single one, in which it acts.
    """

    HEIGHT: ClassVar[float]

    def __init__(self, episodes: Episodes) -> None:
        self.episodes, self.simulation = episodes, episodes.simulation
        robot = self.simulation.agent
        kinematics = import_module("mani_skill.agents.controllers.utils.kinematics").Kinematics
        self._pose = import_module("mani_skill.utils.structs.pose").Pose
        self._kinematics = kinematics(robot.urdf_path, robot.ee_link_name, robot.robot, th.arange(7))
        self._start = self.start()

    @abstractmethod
    def start(self) -> int:
        """Return the step from which on the table shows everything."""

    @abstractmethod
    def target(self) -> Any:
        """Return what is to be touched next, or None if there is nothing more to do."""

    def act(self) -> np.ndarray:
        """Return the action for the present step, (8,)."""
        target = self.target() if self.episodes.elapsed >= self._start else None
        if target is None:
            return self.wait()
        robot = self.simulation.agent
        return self.touch(robot.tcp.pose.p[0].numpy(), robot.robot.get_qpos()[0].numpy(), target.pose.p[0].numpy())

    def wait(self) -> np.ndarray:
        """Return the action of staying where one is, (8,)."""
        action = np.zeros(8, dtype=np.float32)
        action[7] = OPEN
        return action

    def touch(self, tool: np.ndarray, positions: np.ndarray, target: np.ndarray) -> np.ndarray:
        """
        Bring the tool to a target, as far as one step does: down to it from above it, else above it at the height of travel.

        :param tool: Where the tool is, (3,).
        :param positions: Of the joints, (9,).
        :param target: Where the target is, (3,).
        :return: The action, (8,).
        """
        beside = np.linalg.norm(tool[:2] - target[:2])
        place = target + np.array([0.0, 0.0, self.HEIGHT if beside < NEAR else HOVER], dtype=np.float32)
        goal = self._pose.create_from_pq(
            p=th.as_tensor(place)[None] - self.simulation.agent.robot.pose.p, q=th.tensor([DOWNWARDS])
        )
        action = self.wait()
        solution = self._kinematics.compute_ik(goal, th.as_tensor(positions)[None])
        if solution is not None:  # else out of reach, and better luck from the next step's position
            action[:7] = ((solution[0].numpy() - positions[:7]) / RADIANS_PER_UNIT).clip(-1.0, 1.0)
        return action


class RememberExpert(Expert):
    """Touches the thing that was shown, and stays there."""

    HEIGHT = 0.03

    def start(self) -> int:
        """See :class:`Expert`."""
        return self.simulation.TIME_OFFSET + self.simulation.DELTA_TIME

    def target(self) -> Any:
        """See :class:`Expert`."""
        (chosen,) = (key for key, mask in self.simulation.masks.items() if mask[0, 0])
        return getattr(self.simulation, self.episodes.task.objects[0])[chosen]


class ColorsExpert(Expert):
    """Touches the cubes that were shown, in their order, each at its top."""

    HEIGHT = 0.025

    def start(self) -> int:
        """See :class:`Expert`."""
        simulation = self.simulation
        return simulation.STEP_DURATION * simulation.SEQUENCE_LENGTH + simulation.EMPTY_DURATION

    def target(self) -> Any:
        """See :class:`Expert`."""
        touched = self.simulation.touched_cubes[0]
        left = [color for color in self.simulation.true_color_indices[0].tolist() if not touched[color]]
        return self.simulation.cubes[left[0]] if left else None


class BunchExpert(ColorsExpert):
    """The same where all cubes are shown at once."""

    def start(self) -> int:
        """See :class:`Expert`."""
        return self.simulation.STEP_DURATION + self.simulation.EMPTY_DURATION


class ShellGameExpert(Expert):
    """Touches the mug over the ball."""

    HEIGHT = 0.065

    def start(self) -> int:
        """See :class:`Expert`."""
        return self.simulation.TIME_OFFSET

    def target(self) -> Any:
        """See :class:`Expert`."""
        mugs = self.episodes.task.covers
        return getattr(self.simulation, mugs[int(self.simulation.cup_with_ball_number[0])])


EXPERTS: dict[str, type[Expert]] = {
    **{f"RememberColor{n}": RememberExpert for n in (3, 5, 9)},
    **{f"RememberShape{n}": RememberExpert for n in (3, 5, 9)},
    **{f"RememberShapeAndColor{n}": RememberExpert for n in ("3x2", "3x3", "5x3")},
    **{f"SeqOfColors{n}": ColorsExpert for n in (3, 5, 7)},
    **{f"ChainOfColors{n}": ColorsExpert for n in (3, 5, 7)},
    **{f"BunchOfColors{n}": BunchExpert for n in (3, 5, 7)},
    "ShellGameTouch": ShellGameExpert,
}


def make_expert(task: str, episodes: Episodes) -> Expert:
    """
    Make the expert of a task.

    :param task: Its name.
    :param episodes: Where it acts.
    :return: An expert for all episodes that these run.
    :raises ValueError: If the task has none.
    """
    if task not in EXPERTS:
        raise ValueError(f"`task` must be one with a scripted expert: {', '.join(EXPERTS)}. Received {task!r}.")
    return EXPERTS[task](episodes)

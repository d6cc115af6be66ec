"""Scripted experts of MIKASA-Robo's tasks of touching the right things, which know the answer and where everything is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch as th

from .mikasa_episodes import Episodes

DOWNWARDS = (0.0, 1.0, 0.0, 0.0)  # quaternion of the tool, real part first
RADIANS_PER_UNIT = 0.1  # of an action
HOVER = 0.16  # metres above a target at which the tool travels
NEAR = 0.03  # metres beside a target within which the tool goes down
OPEN = 1.0  # the gripper's action


class Expert(ABC):
    """
    Waits until the table shows everything, then touches one target after the other from above.

    Where the tool goes depends on where it is and on the target alone, so that an imitator can go there, too.

    :cvar HEIGHT: metres above the target's origin at which it is touched
    :param episodes: a single one, in which it acts
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
        """The step from which on the table shows everything."""

    @abstractmethod
    def target(self) -> Any:
        """What is to be touched next, or None if there is nothing more to do."""

    def act(self) -> np.ndarray:
        """The action for the present step."""
        action = np.zeros(8, dtype=np.float32)
        action[7] = OPEN
        target = self.target() if self.episodes.elapsed >= self._start else None
        if target is not None:
            action[:7] = self._towards(self._waypoint(target.pose.p[0].numpy()))
        return action

    def _waypoint(self, target: np.ndarray) -> np.ndarray:
        """Where the tool goes next: down to the target if it is above it, else above it at the height of travel."""
        tool = self.simulation.agent.tcp.pose.p[0].numpy()
        beside = np.linalg.norm(tool[:2] - target[:2])
        return target + np.array([0.0, 0.0, self.HEIGHT if beside < NEAR else HOVER], dtype=np.float32)

    def _towards(self, place: np.ndarray) -> np.ndarray:
        """Changes of the joints that bring the tool to a place, as far as one step does, (7,)."""
        robot = self.simulation.agent.robot
        place = th.as_tensor(place)[None] - robot.pose.p
        goal = self._pose.create_from_pq(p=place, q=th.tensor([DOWNWARDS]))
        positions = robot.get_qpos()
        solution = self._kinematics.compute_ik(goal, positions)
        if solution is None:  # out of reach, and better luck from the next step's position
            return np.zeros(7, dtype=np.float32)
        return ((solution[0] - positions[0, :7]) / RADIANS_PER_UNIT).clamp(-1.0, 1.0).numpy()


class RememberExpert(Expert):
    """Touches the thing that was shown, and stays there."""

    HEIGHT = 0.03

    def start(self) -> int:
        return self.simulation.TIME_OFFSET + self.simulation.DELTA_TIME

    def target(self) -> Any:
        (chosen,) = (key for key, mask in self.simulation.masks.items() if mask[0, 0])
        return getattr(self.simulation, self.episodes.task.objects[0])[chosen]


class ColorsExpert(Expert):
    """Touches the cubes that were shown, in their order, each at its top."""

    HEIGHT = 0.025

    def start(self) -> int:
        simulation = self.simulation
        return simulation.STEP_DURATION * simulation.SEQUENCE_LENGTH + simulation.EMPTY_DURATION

    def target(self) -> Any:
        touched = self.simulation.touched_cubes[0]
        left = [color for color in self.simulation.true_color_indices[0].tolist() if not touched[color]]
        return self.simulation.cubes[left[0]] if left else None


class BunchExpert(ColorsExpert):
    """The same where all cubes are shown at once."""

    def start(self) -> int:
        return self.simulation.STEP_DURATION + self.simulation.EMPTY_DURATION


class ShellGameExpert(Expert):
    """Touches the mug over the ball."""

    HEIGHT = 0.065

    def start(self) -> int:
        return self.simulation.TIME_OFFSET

    def target(self) -> Any:
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

    :param task: its name
    :param episodes: where it acts
    :raises ValueError: if the task has none
    """
    if task not in EXPERTS:
        raise ValueError(f"`task` must be one with a scripted expert: {', '.join(EXPERTS)}. Received {task!r}.")
    return EXPERTS[task](episodes)

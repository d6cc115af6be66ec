"""Scripted experts of some of MIKASA-Robo's tasks, which know the answer and where everything is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch as th

from .episodes import Episodes

DOWNWARDS = (0.0, 1.0, 0.0, 0.0)  # quaternion of the tool, real part first
OUTWARDS = (0.0, 0.9888, 0.0, 0.1494)  # the same 0.3 radians away from the arm's base, which reaches further
RADIANS_PER_UNIT = 0.1  # of an action
HOVER = 0.16  # metres above a target at which the tool travels
NEAR = 0.03  # metres beside a target within which the tool goes down
OPEN, CLOSED = 1.0, -1.0  # actions of the gripper
AROUND = 0.02  # metres from the cube's middle within which the gripper closes on it
OVER, FUNNEL = 0.01, 8.0  # metres beside the cube at which the open gripper stands around it, and its height for each beyond
HELD = 0.06  # metres between the fingers of a gripper that has closed
STRIDE, LIFT = 0.05, 0.03  # metres ahead of the cube, and above the goal, to which the tool takes it


class Expert(ABC):
    """
    Acts by where the arm and its target are alone, so that an imitator can, too.

    :cvar ORIENTATION: Of the tool, a quaternion, real part first.
    :param episodes: A single one, in which it acts.
    """

    ORIENTATION: ClassVar[tuple[float, ...]] = DOWNWARDS

    def __init__(self, episodes: Episodes) -> None:
        self.episodes, self.simulation = episodes, episodes.simulation
        robot = self.simulation.agent
        kinematics = import_module("mani_skill.agents.controllers.utils.kinematics").Kinematics
        self._pose = import_module("mani_skill.utils.structs.pose").Pose
        self._kinematics = kinematics(robot.urdf_path, robot.ee_link_name, robot.robot, th.arange(7))

    @abstractmethod
    def act(self) -> np.ndarray:
        """Return the action for the present step, (8,)."""

    def arm(self) -> tuple[np.ndarray, np.ndarray]:
        """Return where the tool is, (3,), and the positions of the joints, (9,)."""
        robot = self.simulation.agent
        return robot.tcp.pose.p[0].numpy(), robot.robot.get_qpos()[0].numpy()

    def wait(self, gripper: float = OPEN) -> np.ndarray:
        """
        Stay where one is.

        :param gripper: Its action, ``OPEN`` or ``CLOSED``.
        :return: The action, (8,).
        """
        action = np.zeros(8, dtype=np.float32)
        action[7] = gripper
        return action

    def reach(self, positions: np.ndarray, place: np.ndarray, gripper: float = OPEN) -> np.ndarray:
        """
        Bring the tool to a place, as far as one step does.

        :param positions: Of the joints, (9,).
        :param place: Where the tool shall be, (3,).
        :param gripper: Its action.
        :return: The action, (8,).
        """
        goal = self._pose.create_from_pq(
            p=th.as_tensor(place)[None] - self.simulation.agent.robot.pose.p, q=th.tensor([self.ORIENTATION])
        )
        action = self.wait(gripper)
        solution = self._kinematics.compute_ik(goal, th.as_tensor(positions)[None])
        if solution is not None:  # else out of reach, and better luck from the next step's position
            action[:7] = ((solution[0].numpy() - positions[:7]) / RADIANS_PER_UNIT).clip(-1.0, 1.0)
        return action


class TouchExpert(Expert):
    """
    Waits until the table shows everything, then touches one target after the other from above.

    :cvar HEIGHT: Metres above the target's origin at which it is touched.
    :param episodes: See :class:`Expert`.
    """

    HEIGHT: ClassVar[float]

    def __init__(self, episodes: Episodes) -> None:
        super().__init__(episodes)
        self._start = self.start()

    @abstractmethod
    def start(self) -> int:
        """Return the step from which on the table shows everything."""

    @abstractmethod
    def target(self) -> Any:
        """Return what is to be touched next, or None if there is nothing more to do."""

    def act(self) -> np.ndarray:
        """See :class:`Expert`."""
        target = self.target() if self.episodes.elapsed >= self._start else None
        return self.wait() if target is None else self.touch(*self.arm(), target.pose.p[0].numpy())

    def touch(self, tool: np.ndarray, positions: np.ndarray, target: np.ndarray) -> np.ndarray:
        """
        Bring the tool to a target, as far as one step does: down to it from above it, else above it at the height of travel.

        :param tool: Where the tool is, (3,).
        :param positions: Of the joints, (9,).
        :param target: Where the target is, (3,).
        :return: The action, (8,).
        """
        beside = np.linalg.norm(tool[:2] - target[:2])
        return self.reach(positions, above(target, self.HEIGHT if beside < NEAR else HOVER))


class RememberExpert(TouchExpert):
    """Touches the thing that was shown, and stays there."""

    HEIGHT = 0.03

    def start(self) -> int:
        """See :class:`TouchExpert`."""
        return self.simulation.TIME_OFFSET + self.simulation.DELTA_TIME

    def target(self) -> Any:
        """See :class:`TouchExpert`."""
        (chosen,) = (key for key, mask in self.simulation.masks.items() if mask[0, 0])
        return getattr(self.simulation, self.episodes.task.objects[0])[chosen]


class ColorsExpert(TouchExpert):
    """Touches the cubes that were shown, in their order, each at its top."""

    HEIGHT = 0.025

    def start(self) -> int:
        """See :class:`TouchExpert`."""
        simulation = self.simulation
        return simulation.STEP_DURATION * simulation.SEQUENCE_LENGTH + simulation.EMPTY_DURATION

    def target(self) -> Any:
        """See :class:`TouchExpert`."""
        touched = self.simulation.touched_cubes[0]
        left = [color for color in self.simulation.true_color_indices[0].tolist() if not touched[color]]
        return self.simulation.cubes[left[0]] if left else None


class BunchExpert(ColorsExpert):
    """The same where all cubes are shown at once."""

    def start(self) -> int:
        """See :class:`TouchExpert`."""
        return self.simulation.STEP_DURATION + self.simulation.EMPTY_DURATION


class ShellGameExpert(TouchExpert):
    """Touches the mug over the ball."""

    HEIGHT = 0.065

    def start(self) -> int:
        """See :class:`TouchExpert`."""
        return self.simulation.TIME_OFFSET

    def target(self) -> Any:
        """See :class:`TouchExpert`."""
        mugs = self.episodes.task.covers
        return getattr(self.simulation, mugs[int(self.simulation.cup_with_ball_number[0])])


class TakeItBackExpert(Expert):
    """Grasps the cube and takes it to the goal, and from there back to where it began."""

    ORIENTATION = OUTWARDS

    def act(self) -> np.ndarray:
        """See :class:`Expert`."""
        simulation = self.simulation
        goal = simulation.initial_region if simulation.goal_reached_status[0] else simulation.goal_region
        return self.carry(*self.arm(), simulation.cube.pose.p[0].numpy(), goal.pose.p[0].numpy())

    def carry(self, tool: np.ndarray, positions: np.ndarray, cube: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """
        Take the cube towards a goal, as far as one step does: reach over it, then down around it, close, and go.

        :param tool: Where the tool is, (3,).
        :param positions: Of the joints, (9,).
        :param cube: Where the cube is, (3,).
        :param goal: Where it shall be, (3,).
        :return: The action, (8,).
        """
        if np.linalg.norm(tool - cube) > AROUND:
            beside = np.linalg.norm(tool[:2] - cube[:2])
            return self.reach(positions, above(cube, np.clip(FUNNEL * (beside - OVER), 0.0, HOVER)))
        if positions[7:].sum() > HELD:
            return self.wait(CLOSED)
        way = goal[:2] - cube[:2]
        beyond = cube[:2] + way * min(1.0, STRIDE / np.linalg.norm(way))
        return self.reach(positions, np.append(beyond, goal[2] + LIFT).astype(np.float32), CLOSED)


EXPERTS: dict[str, type[Expert]] = {
    **{f"RememberColor{n}": RememberExpert for n in (3, 5, 9)},
    **{f"RememberShape{n}": RememberExpert for n in (3, 5, 9)},
    **{f"RememberShapeAndColor{n}": RememberExpert for n in ("3x2", "3x3", "5x3")},
    **{f"SeqOfColors{n}": ColorsExpert for n in (3, 5, 7)},
    **{f"ChainOfColors{n}": ColorsExpert for n in (3, 5, 7)},
    **{f"BunchOfColors{n}": BunchExpert for n in (3, 5, 7)},
    "ShellGameTouch": ShellGameExpert,
    "TakeItBack": TakeItBackExpert,
}


def above(place: np.ndarray, height: float) -> np.ndarray:
    """
    The place above another one.

    :param place: (3,).
    :param height: In metres.
    :return: (3,) of float32.
    """
    return place + np.array([0.0, 0.0, height], dtype=np.float32)


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

"""What an agent sees of MIKASA-Robo's tasks, for batches of B episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor

from .simulation import CAMERAS
from .tasks import Task

HIDDEN_ABOVE = 10.0  # height in metres; what a task hides, it lifts by a kilometre
COVER_RADIUS = 0.05  # of a mug, in metres


def joints(simulation: Any) -> Tensor:
    """
    Read the numbers of the arm.

    :param simulation: The suite's environment.
    :return: Pose of the tool (position, then quaternion, real part first), positions and velocities of the joints, (B, 25).
    """
    robot = simulation.agent.robot
    return th.cat((simulation.agent.tcp.pose.raw_pose, robot.get_qpos(), robot.get_qvel()), dim=1).float()


def things(simulation: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """
    List the things on a table.

    :param simulation: The suite's environment.
    :param names: Its attributes; one may be a dict of things.
    :return: Each thing, after the name that it goes by.
    """
    for name in names:
        attribute = getattr(simulation, name)
        yield from ((name, thing) for thing in (attribute.values() if isinstance(attribute, dict) else (attribute,)))


def visible_things(simulation: Any, task: Task) -> Tensor:
    """
    What the cameras could see on the table, as numbers.

    :param simulation: The suite's environment.
    :param task: What is where.
    :return: For each thing whether it is seen and where, or zeros, and its quaternion if that matters, (B, n).
    """
    covers = [thing.pose.p for _, thing in things(simulation, task.covers)]
    columns = []
    for name, thing in things(simulation, task.objects):
        pose = thing.pose.raw_pose if name in task.oriented else thing.pose.p
        visible = pose[:, 2] < HIDDEN_ABOVE  # (B,)
        if name not in task.covers:
            for cover in covers:
                over = (cover[:, :2] - pose[:, :2]).norm(dim=1) < COVER_RADIUS
                visible = visible & ~(over & (cover[:, 2] < HIDDEN_ABOVE))
        columns.append(visible[:, None].float())
        columns.append(th.where(visible[:, None], pose, th.zeros_like(pose)).float())
    return th.cat(columns, dim=1)


def readings(simulation: Any, task: Task) -> Tensor:
    """
    Read what the task itself tells, such as the angle to rotate by.

    :param simulation: The suite's environment.
    :param task: What is where.
    :return: A column for each of ``task.readings``, (B, n).
    """
    columns = [getattr(simulation, name).float()[:, None] for name in task.readings]
    return th.cat([joints(simulation)[:, :0], *columns], dim=1)


def observe_state(simulation: Any, observed: Any, task: Task) -> dict[str, Tensor]:
    """The suite's state, the oracle's answer included."""
    return {"observation": observed.float()}


def observe_cue(simulation: Any, observed: Any, task: Task) -> dict[str, Tensor]:
    """Joints, what is visible, and what the task tells, as one vector."""
    return {"observation": th.cat((joints(simulation), visible_things(simulation, task), readings(simulation, task)), dim=1)}


def observe_rgb(simulation: Any, observed: Any, task: Task) -> dict[str, Tensor]:
    """Images of both cameras, channels last, and what the task tells under the suite's name for it."""
    images = {"rgb": th.cat([observed["sensor_data"][camera]["rgb"] for camera in CAMERAS], dim=3)}
    return images | ({"task_cue": readings(simulation, task)} if "target_angle" in task.readings else {})


def observe_rgb_joints(simulation: Any, observed: Any, task: Task) -> dict[str, Tensor]:
    """Images and joints."""
    return observe_rgb(simulation, observed, task) | {"joints": joints(simulation)}


OBS_MODES: dict[str, Callable[[Any, Any, Task], dict[str, Tensor]]] = {
    "state": observe_state,
    "state_cue": observe_cue,
    "rgb": observe_rgb,
    "rgb_joints": observe_rgb_joints,
}
"""
By mode, what turns the suite's environment, the suite's own observation and the task's facts into an observation: tensors
(B, ...) by key. The only key "observation" stands for an observation without keys.
"""
IMAGE_MODES = ("rgb", "rgb_joints")


def without_key(parts: dict[str, Any]) -> Any:
    """
    Take an observation out of its dict, if it is one without keys.

    :param parts: Arrays or spaces by key.
    :return: The only part, if that is "observation", else the same dict.
    """
    return parts["observation"] if list(parts) == ["observation"] else parts


def observation_space(example: dict[str, Tensor]) -> spaces.Space:
    """
    Build the space of single episodes.

    :param example: An observation of a batch, by key.
    :return: A ``Box``, or a ``Dict`` of them.
    """
    parts: dict[str, spaces.Space] = {}
    for key, values in example.items():
        image = values.dtype == th.uint8
        low, high, dtype = (0, 255, np.uint8) if image else (-np.inf, np.inf, np.float32)
        parts[key] = spaces.Box(low, high, tuple(values.shape[1:]), dtype)
    space = without_key(parts)
    return space if isinstance(space, spaces.Space) else spaces.Dict(parts)

"""Keeping what MIKASA-Robo's tasks show apart from what physics does."""

from __future__ import annotations

from typing import Any

import torch as th

from .scenes import Scenes


class Stage:
    """
    Lets a task show things elsewhere than where they physically are.

    The tasks hide what must not be seen by setting its pose in ``evaluate()``. For the simulator on the GPU that changes what
    is seen, and the next step overwrites it with what physics says; on the CPU it is physics, and what is hidden a kilometre
    above the table falls for good. This puts every body that ``evaluate()`` has moved back before physics goes on.

    On the GPU that is needed where images hide objects of the task's own (``_hidden_objects``): to that end ManiSkill hands
    all that is shown to physics.

    :param simulation: The suite's environment of a task, whose ``evaluate`` is replaced.
    """

    def __init__(self, simulation: Any) -> None:
        self._simulation, self._evaluate = simulation, simulation.evaluate
        self._moved: list[tuple[Any, th.Tensor]] = []
        simulation.evaluate = self.evaluate

    def evaluate(self) -> dict[str, Any]:
        """What the task says of the moment, with everything shown where the task wants it."""
        self.clear()
        bodies = [actor for actor in self._simulation.scene.actors.values() if actor.px_body_type == "dynamic"]
        physical = [(actor, actor.pose.raw_pose.clone()) for actor in bodies]
        info = self._evaluate()
        self._moved = [(actor, pose) for actor, pose in physical if not th.equal(actor.pose.raw_pose, pose)]
        return info

    def clear(self) -> None:
        """Put what is shown elsewhere back to where it physically is."""
        for actor, pose in self._moved:
            actor.pose = pose
        if self._moved and self._simulation.gpu_sim_enabled:
            self._simulation.scene.px.gpu_apply_rigid_dynamic_data()
        self._moved = []


class StageOfScenes(Stage):
    """The same for :class:`Scenes`, which know where everything physically is."""

    _shown = False

    def evaluate(self) -> dict[str, Any]:
        """See :class:`Stage`."""
        self.clear()
        self._shown = True
        return self._evaluate()

    def clear(self) -> None:
        """See :class:`Stage`."""
        if self._shown:
            self._simulation.scene.px.unstage()
        self._shown = False


def make_stage(simulation: Any) -> Stage | None:
    """
    Make the stage of a simulation.

    :param simulation: The suite's environment of a task.
    :return: A stage, or None if it needs none.
    """
    if type(simulation.scene.px) is Scenes:
        return StageOfScenes(simulation)
    hides = simulation.obs_mode == "rgb" and simulation._hidden_objects
    return Stage(simulation) if hides or not simulation.gpu_sim_enabled else None

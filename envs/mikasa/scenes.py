"""Many scenes on the CPU, behind the interface of PhysX on a GPU, for which ManiSkill's batched code is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import Tensor

POSE, VELOCITY = slice(7), slice(7, 13)  # of a body: position, quaternion (real part first); velocity, angular velocity
TOOL = "panda_hand_tcp"  # the only link whose velocity a task reads


class Buffer:
    """
    Numbers that ManiSkill and physics share, and what physics knows of them.

    :param shape: Of the numbers, a row for each body or robot.
    """

    def __init__(self, *shape: int) -> None:
        self.shared, self.known = (np.zeros(shape, dtype=np.float32) for _ in range(2))
        self._tensor = th.from_numpy(self.shared)

    def torch(self) -> Tensor:
        """Return the numbers as ManiSkill asks for them, to read and to write."""
        return self._tensor

    def fetch(self, numbers: Any, rows: Any = slice(None), columns: slice = slice(None)) -> None:
        """
        Take what physics has.

        :param numbers: Its numbers.
        :param rows: Whose.
        :param columns: Which of them.
        """
        self.shared[rows, columns] = self.known[rows, columns] = numbers

    def changed(self, rows: Any = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """
        Find rows of which physics does not know the numbers.

        :param rows: Among these.
        :param columns: The numbers that count.
        :return: Indices of rows.
        """
        differ = (self.shared[rows, columns] != self.known[rows, columns]).any(axis=1)
        return np.arange(len(self.shared))[rows][differ]

    def apply(self, write: Callable[[int], None], rows: Any = slice(None), columns: slice = slice(None)) -> None:
        """
        Let physics know of what has changed.

        :param write: Writes a row's numbers into physics.
        :param rows: See :meth:`changed`.
        :param columns: See :meth:`changed`.
        """
        for row in self.changed(rows, columns).tolist():
            self.known[row, columns] = self.shared[row, columns]
            write(row)


class ContactQuery(NamedTuple):
    """
    The impulses between two bodies.

    :param pairs: The two in each of B scenes.
    :param cuda_impulses: (B, 3).
    """

    pairs: Sequence[tuple[Any, Any]]
    cuda_impulses: Buffer


class Scenes:
    """
    Stands for a ``PhysxGpuSystem`` in ManiSkill's scene, whose B sub-scenes have a ``PhysxCpuSystem`` each.

    Buffers have the names that they have on the GPU. What ManiSkill does with them it does once for all scenes, in place of
    once for each. ``gpu_apply_...`` leaves alone what has not changed.

    :param scene: ManiSkill's, with one robot in each sub-scene.
    """

    def __init__(self, scene: Any) -> None:
        self._scene, self._sub_scenes = scene, scene.sub_scenes
        self._systems = [sub_scene.physx_system for sub_scene in scene.sub_scenes]
        self._sapien = import_module("sapien")
        self._steps = 0
        self._contacts: list[Any] = []

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """What ManiSkill's bodies look at to tell a GPU."""
        return self._sapien.physx.PhysxGpuSystem

    @property
    def timestep(self) -> float:
        """Seconds that a step of physics takes."""
        return float(self._systems[0].timestep)

    @timestep.setter
    def timestep(self, seconds: float) -> None:
        for system in self._systems:
            system.timestep = seconds

    def gpu_init(self) -> None:
        """Make the buffers, and tell ManiSkill's bodies which rows are theirs."""
        (robot,) = self._scene.articulations.values()
        self._robots = robot._objs
        n, dof = len(self._robots), robot.max_dof
        self._entities = [entity for sub_scene in self._sub_scenes for entity in sub_scene.entities]
        rows = {entity: row for row, entity in enumerate(self._entities)}
        for body in (*self._scene.actors.values(), *self._scene.actor_views.values(), *robot.links):
            body._body_data_index_internal = th.tensor([rows[part.entity] for part in body._bodies])
        robot.__dict__["_data_index"] = th.arange(n, dtype=th.int32)
        parts = {rows[part.entity]: part for system in self._systems for part in system.rigid_dynamic_components}
        self._rigid = np.array(sorted(parts))
        self._dynamic = {row: part for row, part in parts.items() if not part.kinematic}
        self._dynamic_rows = np.array(list(self._dynamic))
        self._root_rows, self._tool_rows = robot.root._body_data_index.numpy(), robot.links_map[TOOL]._body_data_index.numpy()
        self._tools = robot.links_map[TOOL]._bodies
        self._joints = [one.active_joints for one in self._robots]
        self._staged = np.zeros(len(self._entities), dtype=bool)
        self.cuda_rigid_body_data = Buffer(len(self._entities), 13)
        self.cuda_articulation_qpos, self.cuda_articulation_qvel = Buffer(n, dof), Buffer(n, dof)
        self.cuda_articulation_target_qpos, self.cuda_articulation_qf = Buffer(n, dof), Buffer(n, dof)
        self.gpu_fetch_rigid_dynamic_data()

    def step(self) -> None:
        """Let physics take a step before the next fetch."""
        self._steps += 1

    def gpu_fetch_rigid_dynamic_data(self) -> None:
        """Let physics take its steps, scene after scene, which suits caches, and read poses and velocities of bodies."""
        for system in self._systems:
            for _ in range(self._steps):
                system.step()
        self._steps, self._contacts = 0, []
        packed = b"".join(sub_scene.pack_poses() for sub_scene in self._sub_scenes)
        poses = np.frombuffer(packed, dtype=np.float32).reshape(-1, 7)  # of every entity: quaternion, position
        bodies = self.cuda_rigid_body_data
        bodies.fetch(np.concatenate((poses[:, 4:], poses[:, :4]), axis=1), columns=POSE)
        parts = self._dynamic.values()
        bodies.fetch([part.linear_velocity for part in parts], self._dynamic_rows, slice(7, 10))
        bodies.fetch([part.angular_velocity for part in parts], self._dynamic_rows, slice(10, 13))

    def gpu_fetch_articulation_link_velocity(self) -> None:
        """Read the velocity of the tool."""
        velocities = [tool.linear_velocity for tool in self._tools]
        self.cuda_rigid_body_data.fetch(velocities, self._tool_rows, slice(7, 10))

    def gpu_fetch_articulation_qpos(self) -> None:
        """Read the positions of joints."""
        self.cuda_articulation_qpos.fetch([robot.qpos for robot in self._robots])

    def gpu_fetch_articulation_qvel(self) -> None:
        """Read the velocities of joints."""
        self.cuda_articulation_qvel.fetch([robot.qvel for robot in self._robots])

    def gpu_apply_rigid_dynamic_data(self) -> None:
        """Write poses and velocities of bodies."""
        bodies = self.cuda_rigid_body_data
        bodies.apply(self._place, self._rigid, POSE)
        bodies.apply(self._move, self._dynamic_rows, VELOCITY)

    def gpu_apply_articulation_root_pose(self) -> None:
        """Write where robots stand."""
        self.cuda_rigid_body_data.apply(self._place, self._root_rows, POSE)

    def gpu_apply_articulation_qpos(self) -> None:
        """Write the positions of joints."""
        self._apply_joints(self.cuda_articulation_qpos, "qpos")

    def gpu_apply_articulation_qvel(self) -> None:
        """Write the velocities of joints."""
        self._apply_joints(self.cuda_articulation_qvel, "qvel")

    def gpu_apply_articulation_qf(self) -> None:
        """Write the forces on joints."""
        self._apply_joints(self.cuda_articulation_qf, "qf")

    def gpu_apply_articulation_target_position(self) -> None:
        """Write where joints are driven to."""
        targets = self.cuda_articulation_target_qpos

        def drive(row: int) -> None:
            for joint, target in zip(self._joints[row], targets.shared[row].tolist(), strict=True):
                joint.set_drive_target(target)

        targets.apply(drive)

    def gpu_create_contact_pair_impulse_query(self, pairs: Sequence[tuple[Any, Any]]) -> ContactQuery:
        """
        Prepare to ask for the impulses between two bodies.

        :param pairs: The two in each scene.
        :return: What :meth:`gpu_query_contact_pair_impulses` takes.
        """
        return ContactQuery(pairs, Buffer(len(pairs), 3))

    def gpu_query_contact_pair_impulses(self, query: ContactQuery) -> None:
        """
        Read impulses.

        :param query: Between what, and where they go.
        """
        total = import_module("mani_skill.utils.sapien_utils").get_pairwise_contact_impulse
        self._contacts = self._contacts or [system.get_contacts() for system in self._systems]
        pairs = zip(self._contacts, query.pairs, strict=True)
        impulses = [total(contacts, *(body.entity for body in pair)) for contacts, pair in pairs]
        query.cuda_impulses.fetch(impulses)

    def unstage(self) -> None:
        """
        Put what a task shows elsewhere back to where it physically is.

        What a task moves once it places at every step, moved or not. In ManiSkill's own simulation on the CPU that touches
        physics: contacts begin anew. So it does here, in order that both are the same to the last digit. Kinematic bodies stay
        where they are shown, as they do there.
        """
        bodies = self.cuda_rigid_body_data
        moved = bodies.changed(self._dynamic_rows, POSE)
        bodies.shared[moved, POSE] = bodies.known[moved, POSE]
        self._staged[moved] = True
        for row in np.flatnonzero(self._staged).tolist():
            self._place(row)
        bodies.apply(self._place, self._rigid, POSE)

    def _place(self, row: int) -> None:
        pose = self.cuda_rigid_body_data.shared[row, POSE]
        self._entities[row].pose = self._sapien.Pose(pose[:3], pose[3:])

    def _move(self, row: int) -> None:
        velocity = self.cuda_rigid_body_data.shared[row, VELOCITY]
        self._dynamic[row].linear_velocity, self._dynamic[row].angular_velocity = velocity[:3], velocity[3:]

    def _apply_joints(self, buffer: Buffer, attribute: str) -> None:
        buffer.apply(lambda row: setattr(self._robots[row], attribute, buffer.shared[row]))

    def _nothing(self) -> None:
        """What the GPU needs, or what these tasks do not."""

    gpu_update_articulation_kinematics = gpu_fetch_articulation_link_pose = gpu_fetch_articulation_qacc = _nothing
    gpu_fetch_articulation_target_qpos = gpu_fetch_articulation_target_qvel = _nothing
    gpu_apply_articulation_root_velocity = gpu_apply_articulation_target_velocity = _nothing


class InScenes:
    """Mixed into an environment of ManiSkill's, builds it from as many scenes on the CPU as it has episodes; draws nothing."""

    num_envs: int
    device: Any
    scene: Any
    sim_config: Any
    _sim_freq: int
    _set_scene_config: Callable[[], None]

    @property
    def backend(self) -> Any:
        """ManiSkill's description of what simulates: not its CPU, which plays one episode, and as calls go a GPU."""
        return self._backend

    @backend.setter
    def backend(self, parsed: Any) -> None:
        self._backend = replace(parsed, sim_backend="scenes", sim_device=SimpleNamespace(is_cuda=lambda: True))

    def _setup_scene(self) -> None:
        sapien = import_module("sapien")
        self._set_scene_config()
        sub_scenes = [sapien.Scene([sapien.physx.PhysxCpuSystem()]) for _ in range(self.num_envs)]
        make_scene = import_module("mani_skill.envs.scene").ManiSkillScene
        self.scene = make_scene(sub_scenes, sim_config=self.sim_config, device=self.device, backend=self.backend)
        self.scene.px, self.scene.gpu_sim_enabled = Scenes(self.scene), True
        self.scene.px.timestep = 1.0 / self._sim_freq
        self.scene.create_actor_builder = partial(build_in_each, self.scene.create_actor_builder)


def build_in_each(create_builder: Callable[[], Any]) -> Any:
    """
    Make a builder that puts the ground into each scene, in place of one scene that stands for all, as it is on a GPU.

    :param create_builder: Makes ManiSkill's.
    :return: The builder.
    """
    builder = create_builder()
    builder.set_allow_overlapping_plane_collisions(True)
    return builder


def in_scenes(environment_class: type) -> type:
    """
    Let an environment of ManiSkill's play many episodes on the CPU, undrawn.

    :param environment_class: The environment's.
    :return: A class of the same name and arguments, whose ``sim_backend`` must be "physx_cpu".
    """
    return type(environment_class.__name__, (InScenes, environment_class), {})

"""Many scenes on the CPU behind the interface of PhysX on a GPU, for which ManiSkill's batched code is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import Tensor

BODY = 13  # numbers of a body: position, quaternion, velocity, angular velocity


class Buffer:
    """
    Numbers that ManiSkill reads and writes, beside those that physics has.

    :param shape: Of the numbers.
    """

    def __init__(self, *shape: int) -> None:
        self.shared = np.zeros(shape, dtype=np.float32)
        self.physical = np.zeros(shape, dtype=np.float32)
        self._tensor = th.from_numpy(self.shared)

    def torch(self) -> Tensor:
        """The shared numbers, as ManiSkill asks for them."""
        return self._tensor

    def fetch(self, columns: slice, numbers: np.ndarray) -> None:
        """
        Take what physics has.

        :param columns: Which of the last dimension.
        :param numbers: Their values.
        """
        self.shared[..., columns] = self.physical[..., columns] = numbers

    def changed(self, columns: slice = slice(None)) -> np.ndarray:
        """
        Find the rows that physics does not know yet, and take them as known.

        :param columns: Which of them count.
        :return: Indices of the rows.
        """
        differs = (self.shared[:, columns] != self.physical[:, columns]).any(axis=1)
        self.physical[:, columns] = self.shared[:, columns]
        return np.flatnonzero(differs)


class ContactQuery(NamedTuple):
    """
    Impulses between two bodies in each scene.

    :param pairs: The two, in each.
    :param cuda_impulses: (B, 3).
    """

    pairs: Sequence[tuple[Any, Any]]
    cuda_impulses: Buffer


class SceneBatch:
    """
    Stands for ``PhysxGpuSystem`` in B scenes, each with a ``PhysxCpuSystem`` of its own.

    What ``fetch`` reads and what ``apply`` writes are numbers of all scenes in one buffer. ``apply`` leaves alone what nobody
    has changed.

    :param scene: ManiSkill's, of B sub-scenes.
    """

    def __init__(self, scene: Any) -> None:
        self._scene, self._sub_scenes = scene, scene.sub_scenes
        self._systems = [sub_scene.physx_system for sub_scene in scene.sub_scenes]
        self._contacts: list[list[Any]] | None = None

    @property
    def __class__(self) -> Any:  # type: ignore[override]  # ManiSkill asks with isinstance
        return import_module("sapien").physx.PhysxGpuSystem

    @property
    def timestep(self) -> float:
        """Seconds."""
        return float(self._systems[0].timestep)

    @timestep.setter
    def timestep(self, seconds: float) -> None:
        for system in self._systems:
            system.timestep = seconds

    def step(self) -> None:
        """Let physics go on in all scenes."""
        self._contacts = None
        for system in self._systems:
            system.step()

    def gpu_init(self) -> None:
        """Make the buffers, and tell ManiSkill's bodies which rows are theirs."""
        n = len(self._sub_scenes)
        places = [{entity: k for k, entity in enumerate(sub_scene.entities)} for sub_scene in self._sub_scenes]
        self._entities = [entity for sub_scene in self._sub_scenes for entity in sub_scene.entities]
        per_scene = len(places[0])
        (robot,) = self._scene.articulations.values()
        self._robots = robot._objs
        robot.__dict__["_data_index"] = th.arange(n, dtype=th.int32)
        bodies = [*self._scene.actors.values(), *self._scene.actor_views.values(), *robot.links]
        for body in bodies:
            entities = zip(body._scene_idxs.tolist(), body._bodies, strict=True)
            body._body_data_index_internal = th.tensor([i * per_scene + places[i][part.entity] for i, part in entities])
        self._rigid = [system.rigid_dynamic_components for system in self._systems]
        columns = np.array([places[0][part.entity] for part in self._rigid[0]])
        self._rigid_rows = (np.arange(n)[:, None] * per_scene + columns).ravel()
        self._dynamic_rows = self._rigid_rows[[not part.kinematic for parts in self._rigid for part in parts]]
        self._parts = dict(zip(self._rigid_rows, (part for parts in self._rigid for part in parts), strict=True))
        self._roots = {i * per_scene + places[i][r.root.entity]: r.root for i, r in enumerate(self._robots)}
        tool = robot.links_map["panda_hand_tcp"]
        self._tools = (tool._body_data_index.numpy(), tool._bodies)
        dof = robot.max_dof
        self._joints = [r.active_joints for r in self._robots]
        self._staged = np.zeros(n * per_scene, dtype=bool)
        self.cuda_rigid_body_data = Buffer(n * per_scene, BODY)
        self.cuda_articulation_qpos, self.cuda_articulation_qvel = Buffer(n, dof), Buffer(n, dof)
        self.cuda_articulation_qf = Buffer(n, dof)
        self.cuda_articulation_target_qpos, self.cuda_articulation_target_qvel = Buffer(n, dof), Buffer(n, dof)
        self.gpu_fetch_rigid_dynamic_data()

    def gpu_fetch_rigid_dynamic_data(self) -> None:
        """Read everything."""
        n, n_rigid = len(self._systems), len(self._rigid[0])
        poses = packed(sub_scene.pack_poses() for sub_scene in self._sub_scenes).reshape(-1, 7)  # quaternion, position
        bodies = self.cuda_rigid_body_data
        bodies.fetch(slice(3), poses[:, 4:])
        bodies.fetch(slice(3, 7), poses[:, :4])
        state = packed(system.pack() for system in self._systems).reshape(n, -1)
        velocities = state[:, : BODY * n_rigid].reshape(-1, BODY)[:, 7:]
        bodies.shared[self._rigid_rows, 7:] = bodies.physical[self._rigid_rows, 7:] = velocities
        dof = self.cuda_articulation_qpos.shared.shape[1]
        begin = BODY * (n_rigid + 1)
        self.cuda_articulation_qpos.fetch(slice(None), state[:, begin : begin + dof])
        self.cuda_articulation_qvel.fetch(slice(None), state[:, begin + dof : begin + 2 * dof])
        rows, tools = self._tools
        bodies.shared[rows, 7:10] = bodies.physical[rows, 7:10] = [tool.linear_velocity for tool in tools]

    def restore(self) -> None:
        """x"""
        bodies = self.cuda_rigid_body_data
        rows = self._dynamic_rows
        moved = rows[(bodies.shared[rows, :7] != bodies.physical[rows, :7]).any(axis=1)]
        bodies.shared[moved] = bodies.physical[moved]
        self._staged[moved] = True
        for row in np.flatnonzero(self._staged):
            self._place(row)
        self.gpu_apply_rigid_dynamic_data()

    def _place(self, row: int) -> None:
        sapien = import_module("sapien")
        p = self.cuda_rigid_body_data.shared[row]
        self._entities[row].pose = sapien.Pose(p[:3], p[3:7])

    def gpu_apply_rigid_dynamic_data(self) -> None:
        bodies = self.cuda_rigid_body_data
        keep = bodies.physical.copy()
        for row in bodies.changed(slice(7)):
            if row in self._parts:
                self._place(row)
            else:
                bodies.physical[row] = keep[row]
        for row in bodies.changed(slice(7, 13)):
            if row in self._parts and not self._parts[row].kinematic:
                self._parts[row].linear_velocity = bodies.shared[row, 7:10]
                self._parts[row].angular_velocity = bodies.shared[row, 10:13]

    def gpu_apply_articulation_root_pose(self) -> None:
        sapien = import_module("sapien")
        bodies = self.cuda_rigid_body_data
        for row, root in self._roots.items():
            if (bodies.shared[row, :7] != bodies.physical[row, :7]).any():
                p = bodies.shared[row]
                root.pose = sapien.Pose(p[:3], p[3:7])

    def gpu_apply_articulation_qpos(self) -> None:
        for i in self.cuda_articulation_qpos.changed():
            self._robots[i].qpos = self.cuda_articulation_qpos.shared[i]

    def gpu_apply_articulation_qvel(self) -> None:
        for i in self.cuda_articulation_qvel.changed():
            self._robots[i].qvel = self.cuda_articulation_qvel.shared[i]

    def gpu_apply_articulation_qf(self) -> None:
        for i in self.cuda_articulation_qf.changed():
            self._robots[i].qf = self.cuda_articulation_qf.shared[i]

    def gpu_apply_articulation_target_position(self) -> None:
        targets = self.cuda_articulation_target_qpos
        for i in targets.changed():
            for joint, target in zip(self._joints[i], targets.shared[i].tolist(), strict=True):
                joint.set_drive_target(target)

    def gpu_create_contact_pair_impulse_query(self, pairs: Any) -> ContactQuery:
        return ContactQuery(pairs, Buffer(len(pairs), 3))

    def gpu_query_contact_pair_impulses(self, query: ContactQuery) -> None:
        impulse = import_module("mani_skill.utils.sapien_utils").get_pairwise_contact_impulse
        if self._contacts is None:
            self._contacts = [system.get_contacts() for system in self._systems]
        for i, (contacts, (one, other)) in enumerate(zip(self._contacts, query.pairs, strict=True)):
            query.cuda_impulses.shared[i] = impulse(contacts, one.entity, other.entity)

    def _nothing(self) -> None:
        pass

    gpu_update_articulation_kinematics = gpu_fetch_articulation_link_pose = gpu_fetch_articulation_link_velocity = _nothing
    gpu_fetch_articulation_qpos = gpu_fetch_articulation_qvel = gpu_fetch_articulation_qacc = _nothing
    gpu_fetch_articulation_target_qpos = gpu_fetch_articulation_target_qvel = _nothing
    gpu_apply_articulation_root_velocity = gpu_apply_articulation_target_velocity = _nothing


def packed(parts: Any) -> np.ndarray:
    return np.frombuffer(b"".join(parts), dtype=np.float32)


class InScenes:
    """Mixed into an environment of ManiSkill's, lets it play B scenes on the CPU."""

    @property
    def backend(self) -> Any:
        return self._backend

    @backend.setter
    def backend(self, parsed: Any) -> None:
        self._backend = replace(parsed, sim_backend="scenes", sim_device=SimpleNamespace(is_cuda=lambda: True))

    def _setup_scene(self) -> None:
        sapien = import_module("sapien")
        self._set_scene_config()
        sub_scenes = [sapien.Scene([sapien.physx.PhysxCpuSystem()]) for _ in range(self.num_envs)]
        scene = import_module("mani_skill.envs.scene").ManiSkillScene
        self.scene = scene(sub_scenes, sim_config=self.sim_config, device=self.device, backend=self.backend)
        self.scene.px, self.scene.gpu_sim_enabled = SceneBatch(self.scene), True
        self.scene.px.timestep = 1.0 / self._sim_freq

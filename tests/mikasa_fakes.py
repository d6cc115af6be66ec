"""Stand-ins for what MIKASA-Robo's tests cannot count on: a GPU, and the mug that ManiSkill downloads."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th

HIDDEN = 1000.0
PARTS = 12  # of the mug's wall


class FakeActor:
    """A body whose physical and shown poses share a buffer, as in ManiSkill's GPU simulation."""

    px_body_type = "dynamic"

    def __init__(self, n_envs: int, place: tuple[float, float, float]) -> None:
        self.raw_pose = th.tensor([[*place, 1.0, 0.0, 0.0, 0.0]]).repeat(n_envs, 1)

    @property
    def pose(self) -> Any:
        return SimpleNamespace(raw_pose=self.raw_pose, p=self.raw_pose[:, :3])

    @pose.setter
    def pose(self, raw_pose: th.Tensor) -> None:
        self.raw_pose = raw_pose.clone()


class FakeSimulation:
    """
    The interface that ManiSkill's batched simulation has, with a game in place of physics.

    Environment i succeeds at steps at which the first entry of its action is at least its seed's tenth. What is hidden rises
    when ``evaluate`` is called before step 3; physics, which must not see that, is noted in ``physical``.
    """

    device = th.device("cpu")
    gpu_sim_enabled = True

    def __init__(self, n_envs: int, images: bool = False, hidden_objects: bool = False) -> None:
        self.n_envs, self.images = n_envs, images
        self.obs_mode = "rgb" if images else "state"
        self._hidden_objects = [object()] if hidden_objects else []
        self.cubes = {color: FakeActor(n_envs, (0.1 * color, 0.0, 0.02)) for color in range(3)}
        self.applied = 0
        px = SimpleNamespace(gpu_apply_rigid_dynamic_data=self._apply)
        self.scene = SimpleNamespace(actors=dict(self.cubes), px=px)
        robot = SimpleNamespace(get_qpos=lambda: self.zeros(9), get_qvel=lambda: self.zeros(9))
        self.agent = SimpleNamespace(robot=robot, tcp=SimpleNamespace(pose=SimpleNamespace(raw_pose=self.zeros(7))))
        self.seeds = th.zeros(n_envs)
        self.elapsed = 0
        self.actions = self.zeros(8)
        self.physical: list[list[float]] = []
        self.closed = False

    def _apply(self) -> None:
        self.applied += 1

    def zeros(self, n: int) -> th.Tensor:
        return th.zeros(self.n_envs, n)

    def evaluate(self) -> dict[str, th.Tensor]:
        for cube in self.cubes.values():
            pose = cube.raw_pose.clone()
            if self.elapsed < 3:
                pose[:, 2] = HIDDEN
            cube.pose = pose
        return {"success": (self.elapsed > 0) & (self.actions[:, 0] >= self.seeds / 10)}

    def observe(self) -> Any:
        if not self.images:
            return th.cat((self.seeds[:, None], th.full((self.n_envs, 1), float(self.elapsed)), self.actions), dim=1)
        image = self.seeds.to(th.uint8)[:, None, None, None].repeat(1, 16, 16, 3)
        return {"sensor_data": {"base_camera": {"rgb": image}, "hand_camera": {"rgb": image + 100}}}

    def reset(self, seed: list[int]) -> tuple[Any, dict[str, Any]]:
        assert len(seed) == self.n_envs
        self.seeds = th.tensor(seed) % 10
        self.elapsed = 0
        self.actions = self.zeros(8)
        self.evaluate()
        return self.observe(), {}

    def step(self, actions: th.Tensor) -> tuple[Any, th.Tensor, th.Tensor, th.Tensor, dict[str, Any]]:
        assert actions.dtype == th.float32
        self.physical.append([float(cube.raw_pose[0, 2]) for cube in self.cubes.values()])
        self.actions = actions
        self.elapsed += 1
        info = self.evaluate()
        never = th.zeros(self.n_envs, dtype=th.bool)
        return self.observe(), actions.sum(1), info["success"].clone(), never, info

    def close(self) -> None:
        self.closed = True


def write_mug(folder: Path) -> None:
    """
    Write a mug of our own where ManiSkill looks for the YCB objects: an open cylinder, hollow, without a handle.

    :param folder: what ``MS_ASSET_DIR`` will name
    """
    import trimesh

    models = folder / "data" / "assets" / "mani_skill2_ycb"
    mug = models / "models" / "025_mug"
    mug.mkdir(parents=True, exist_ok=True)
    height, radius, wall = 0.08, 0.045, 0.004
    bottom = trimesh.creation.cylinder(radius, wall)
    bottom.apply_translation((0, 0, (wall - height) / 2))
    parts = [bottom]
    for angle in np.arange(PARTS) * 2 * np.pi / PARTS:
        part = trimesh.creation.box((wall, 2 * radius * np.tan(np.pi / PARTS), height))
        part.apply_translation((radius, 0, 0))
        part.apply_transform(trimesh.transformations.rotation_matrix(angle, (0, 0, 1)))
        parts.append(part)
    mesh = trimesh.util.concatenate(parts)
    mesh.export(mug / "collision.ply")
    mesh.export(mug / "textured.obj")
    bounds = {"min": mesh.bounds[0].tolist(), "max": mesh.bounds[1].tolist()}
    (models / "info_pick_v0.json").write_text(json.dumps({"025_mug": {"bbox": bounds, "scales": [1.0], "density": 1000}}))

"""Properties of many scenes behind the interface of PhysX on a GPU, on stand-ins for SAPIEN's objects."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_elmur.envs.mikasa.scenes import TOOL, Scenes

B = 2
CUBE, GOAL, LINK = 0, 1, 2  # the entities of each scene


class FakeEntity:
    """A body that counts how often it is placed."""

    def __init__(self) -> None:
        self.placed = -1
        self.pose = FakePose(np.zeros(3), np.array([1.0, 0, 0, 0]))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "pose":
            self.placed += 1
        object.__setattr__(self, name, value)


class FakePose:
    def __init__(self, p: np.ndarray, q: np.ndarray) -> None:
        self.p, self.q = np.array(p), np.array(q)


class FakeSystem:
    """Physics in which a cube rises by a metre in each step."""

    def __init__(self, number: int, log: list[int]) -> None:
        self.entities = [FakeEntity() for _ in (CUBE, GOAL, LINK)]
        self.rigid_dynamic_components = [
            FakeSystem.part(self.entities[CUBE], False),
            FakeSystem.part(self.entities[GOAL], True),
        ]
        self._number, self._log, self.timestep = number, log, 0.01

    @staticmethod
    def part(entity: FakeEntity, kinematic: bool) -> Any:
        return SimpleNamespace(entity=entity, kinematic=kinematic, linear_velocity=np.zeros(3), angular_velocity=np.zeros(3))

    def step(self) -> None:
        self._log.append(self._number)
        cube = self.entities[CUBE]
        cube.pose.p[2] += 1.0

    def pack_poses(self) -> bytes:
        numbers = [np.concatenate((entity.pose.q, entity.pose.p)) for entity in self.entities]
        return np.array(numbers, dtype=np.float32).tobytes()


class Body:
    """ManiSkill's view of a body in every scene."""

    def __init__(self, parts: list[Any]) -> None:
        self._bodies = parts

    @property
    def _body_data_index(self) -> th.Tensor:
        return self._body_data_index_internal  # type: ignore[attr-defined]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Two scenes of a cube, a kinematic goal and a robot of one link and one joint."""
    gpu = type("PhysxGpuSystem", (), {})
    monkeypatch.setitem(sys.modules, "sapien", SimpleNamespace(Pose=FakePose, physx=SimpleNamespace(PhysxGpuSystem=gpu)))
    log: list[int] = []
    systems = [FakeSystem(number, log) for number in range(B)]
    cube, goal = (Body([system.rigid_dynamic_components[k] for system in systems]) for k in (CUBE, GOAL))
    tool = Body([FakeSystem.part(system.entities[LINK], False) for system in systems])
    driven: list[tuple[int, float]] = []
    robots = [
        SimpleNamespace(
            qpos=np.zeros(1),
            qvel=np.zeros(1),
            active_joints=[SimpleNamespace(set_drive_target=lambda target, number=number: driven.append((number, target)))],
        )
        for number in range(B)
    ]
    robot = SimpleNamespace(_objs=robots, max_dof=1, links=[tool], root=tool, links_map={TOOL: tool})
    scene = SimpleNamespace(
        sub_scenes=[SimpleNamespace(physx_system=s, entities=s.entities, pack_poses=s.pack_poses) for s in systems],
        articulations={"robot": robot},
        actors={"cube": cube, "goal": goal},
        actor_views={},
    )
    scenes = Scenes(scene)
    scenes.gpu_init()
    return SimpleNamespace(scenes=scenes, systems=systems, cube=cube, goal=goal, log=log, driven=driven, gpu=gpu)


def show(world: SimpleNamespace, body: Body, height: float) -> None:
    """Set the height of a body in all scenes, as a task does."""
    world.scenes.cuda_rigid_body_data.torch()[body._body_data_index, 2] = height


def heights(world: SimpleNamespace, entity: int) -> list[float]:
    """Where physics has it."""
    return [float(system.entities[entity].pose.p[2]) for system in world.systems]


def test_maniskill_takes_them_for_a_gpu(world: SimpleNamespace) -> None:
    assert isinstance(world.scenes, world.gpu)


def test_a_fetch_takes_all_steps_of_one_scene_after_those_of_another(world: SimpleNamespace) -> None:
    for _ in range(3):
        world.scenes.step()
    assert world.log == []
    world.scenes.gpu_fetch_rigid_dynamic_data()
    assert world.log == [0, 0, 0, 1, 1, 1]
    bodies = world.scenes.cuda_rigid_body_data.torch()
    assert bodies[world.cube._body_data_index, :7].tolist() == [[0, 0, 3, 1, 0, 0, 0]] * B


def test_what_has_not_changed_is_not_written(world: SimpleNamespace) -> None:
    world.scenes.cuda_rigid_body_data.torch()[world.cube._body_data_index[1], 2] = 4.0
    world.scenes.gpu_apply_rigid_dynamic_data()
    world.scenes.gpu_apply_rigid_dynamic_data()
    assert heights(world, CUBE) == [0.0, 4.0]
    assert [system.entities[CUBE].placed for system in world.systems] == [0, 1]


def test_a_robot_is_driven_where_its_target_changes(world: SimpleNamespace) -> None:
    world.scenes.cuda_articulation_target_qpos.torch()[1, 0] = 0.5
    world.scenes.gpu_apply_articulation_target_position()
    world.scenes.gpu_apply_articulation_target_position()
    assert world.driven == [(1, 0.5)]


def test_what_is_shown_elsewhere_is_put_back_and_from_then_on_placed_at_every_step(world: SimpleNamespace) -> None:
    world.scenes.unstage()
    assert [system.entities[CUBE].placed for system in world.systems] == [0, 0]
    show(world, world.cube, 1000.0)
    for placed in (1, 2):
        world.scenes.unstage()
        assert heights(world, CUBE) == [0.0, 0.0]
        assert world.scenes.cuda_rigid_body_data.torch()[world.cube._body_data_index, 2].tolist() == [0.0, 0.0]
        assert [system.entities[CUBE].placed for system in world.systems] == [placed, placed]


def test_a_kinematic_body_stays_where_it_is_shown(world: SimpleNamespace) -> None:
    show(world, world.goal, 7.0)
    world.scenes.unstage()
    assert heights(world, GOAL) == [7.0, 7.0]

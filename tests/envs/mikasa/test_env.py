"""Properties of MIKASA-Robo's environments that show without ManiSkill."""

from __future__ import annotations

import builtins
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium.error import DependencyNotInstalled, ResetNeeded

from mikasa_fakes import FakeActor, FakeSimulation
from sb3_elmur.datasets.episodes import NpzEpisodes
from sb3_elmur.envs import MikasaEnv
from sb3_elmur.envs.mikasa import episodes as mikasa_episodes
from sb3_elmur.envs.mikasa import simulation as mikasa_simulation
from sb3_elmur.envs.mikasa.meshes import Mesh, simplify
from sb3_elmur.envs.mikasa.observations import visible_things
from sb3_elmur.envs.mikasa.stage import Stage
from sb3_elmur.envs.mikasa.tasks import TASKS, Task


def test_there_are_32_ids() -> None:
    ids = {env_id for env_id in gymnasium.registry if env_id.startswith("Mikasa")}
    assert ids == {f"Mikasa{task}-v0" for task in TASKS}
    assert len(ids) == 32


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("task", "Juggle"),
        ("obs_mode", "smell"),
        ("reward_mode", "big"),
        ("camera_size", 8),
        ("delta_time", 0),
        ("render_mode", "human"),
    ],
)
def test_other_arguments_are_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{argument}`.* {value!r}"):
        MikasaEnv(**{"task": "RememberColor3", argument: value})


def test_a_longer_empty_phase_moves_the_limit_and_is_told_to_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    received: dict[str, Any] = {}

    def build(**arguments: Any) -> FakeSimulation:
        received.update(arguments)
        return FakeSimulation(1, images=True)

    specification = SimpleNamespace(cls=build)
    monkeypatch.setattr(mikasa_simulation, "import_tasks", lambda: {"RememberShape5-v0": specification})
    monkeypatch.setattr(mikasa_simulation, "simplify_wrist_camera", lambda simulation: None)
    monkeypatch.setattr(mikasa_simulation, "Culling", lambda simulation: None)
    env = MikasaEnv("RememberShape5", obs_mode="rgb", delta_time=20)
    assert received["delta_time"] == 20
    env.reset(seed=0)
    assert [env.step(np.zeros(8))[3] for _ in range(75)] == [False] * 74 + [True]


def test_a_task_with_fixed_phases_refuses_another_empty_phase() -> None:
    with pytest.raises(ValueError, match=r"`delta_time`.* 20"):
        MikasaEnv("SeqOfColors3", delta_time=20)


@pytest.mark.parametrize("missing", ["mani_skill", "mikasa_robo_suite"])
def test_what_is_missing_is_named_with_the_lines_that_install_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def absent(name: str, *arguments: Any) -> ModuleType:
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return ModuleType(name) if name.split(".")[0] in ("mani_skill", "mikasa_robo_suite") else import_module(name)

    monkeypatch.setattr(mikasa_simulation, "import_module", absent)
    lines = r'pip install "sb3-elmur\[maniskill\]" && pip install --no-deps "mikasa-robo-suite==1.0.0"'
    with pytest.raises(DependencyNotInstalled, match=f"{missing}.*`{lines}`"):
        gymnasium.make("MikasaRememberColor3-v0")


def test_a_missing_system_library_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, *arguments: Any) -> ModuleType:
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(mikasa_simulation, "import_module", broken)
    with pytest.raises(DependencyNotInstalled, match=r"^libGL.so.1: .*libgl1.*`make mikasa-system`"):
        mikasa_simulation.import_tasks()


@pytest.mark.parametrize(
    "message",
    [
        "vk::createInstanceUnique: ErrorIncompatibleDriver",  # no driver at all
        "Failed to find a supported physical device",  # Mesa 22
        "failed to find a rendering device",
    ],
)
def test_a_missing_vulkan_driver_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def build(**arguments: Any) -> None:
        raise RuntimeError(message)

    specification = SimpleNamespace(cls=build)
    monkeypatch.setattr(mikasa_simulation, "import_tasks", lambda: {"RememberColor3-v0": specification})
    with pytest.raises(DependencyNotInstalled, match=f"{message}.*mesa-vulkan-drivers.*`make mikasa-system`"):
        MikasaEnv("RememberColor3", obs_mode="rgb")


def test_other_errors_of_the_simulator_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**arguments: Any) -> None:
        raise RuntimeError("out of memory")

    specification = SimpleNamespace(cls=build)
    monkeypatch.setattr(mikasa_simulation, "import_tasks", lambda: {"RememberColor3-v0": specification})
    with pytest.raises(RuntimeError, match="out of memory"):
        MikasaEnv("RememberColor3", obs_mode="rgb")


def test_a_missing_mug_is_an_error_and_no_question(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    suite = ModuleType("mani_skill")
    suite.ASSET_DIR = tmp_path / "data"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mani_skill", suite)
    monkeypatch.setattr(mikasa_simulation, "import_tasks", lambda: {"ShellGameTouch-v0": None})
    monkeypatch.setattr(builtins, "input", lambda *arguments: pytest.fail("asked at the prompt"))
    with pytest.raises(DependencyNotInstalled, match=r"info_pick_v0.json.*download_asset ycb.*MS_ASSET_DIR"):
        MikasaEnv("ShellGameTouch")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSimulation:
    simulation = FakeSimulation(1)
    simulation.gpu_sim_enabled = False
    monkeypatch.setattr(mikasa_episodes, "make_simulation", lambda *arguments: simulation)
    return simulation


def test_the_single_environment_is_truncated_at_the_limit_only(fake: FakeSimulation) -> None:
    env = MikasaEnv("RememberColor3", obs_mode="state")
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(8))
    observation, info = env.reset(seed=2)
    assert (observation[0], info) == (2, {})
    observation, reward, terminated, truncated, info = env.step(np.full(8, 0.25))
    assert (reward, terminated, truncated) == (2.0, False, False)
    assert info == {"is_success": True, "success_at_end": True}
    for step in range(2, 61):
        _, _, terminated, truncated, info = env.step(np.zeros(8))
        assert (terminated, truncated) == (False, step == 60)
        assert info == {"is_success": True, "success_at_end": False}
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(8))


def test_unseeded_environments_differ_and_a_seed_repeats_the_episodes_after_it(fake: FakeSimulation) -> None:
    seeds: list[int] = []
    reset = fake.reset
    fake.reset = lambda seed: seeds.extend(seed) or reset(seed)  # type: ignore[method-assign]
    env = MikasaEnv("RememberColor3")
    for seed in (7, None, 7, None, 8, None):
        env.reset(seed=seed)
    MikasaEnv("RememberColor3").reset()
    MikasaEnv("RememberColor3").reset()
    assert seeds[1:5:2] == seeds[3:7:2] == [7, 7] or seeds[1:3] == seeds[3:5]
    assert len(set(seeds[1:])) == 6 + 1  # 0 of the constructors, 7, 8, and what follows them, and two without seeds


def test_no_task_moves_physics_when_it_hides_what_must_not_be_seen(fake: FakeSimulation) -> None:
    env = MikasaEnv("RememberColor3")
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.zeros(8))
    assert fake.physical == [[pytest.approx(0.02)] * 3] * 5
    assert fake.applied == 0


def test_the_stage_moves_back_what_was_shown_elsewhere_and_nothing_twice() -> None:
    simulation = FakeSimulation(1)
    simulation.gpu_sim_enabled = False
    stage = Stage(simulation)
    simulation.evaluate()
    simulation.evaluate()  # as ManiSkill does if it is asked for an observation
    assert simulation.cubes[0].pose.p[0, 2] == 1000
    stage.clear()
    assert simulation.cubes[0].pose.p[0, 2] == pytest.approx(0.02)
    simulation.cubes[0].pose = simulation.cubes[0].raw_pose + 1
    stage.clear()
    assert simulation.cubes[0].pose.p[0, 2] == pytest.approx(1.02)


def test_what_is_lifted_out_of_sight_or_covered_is_not_visible() -> None:
    simulation = FakeSimulation(1)
    simulation.ball, simulation.mug = FakeActor(1, (0.1, 0.2, 0.02)), FakeActor(1, (0.12, 0.2, 0.04))  # type: ignore[attr-defined]
    task = Task(60, ("mug", "ball"), covers=("mug",))
    covered = visible_things(simulation, task)
    np.testing.assert_allclose(covered, [[1, 0.12, 0.2, 0.04, 0, 0, 0, 0]])
    simulation.mug.raw_pose[:, 2] = 1000.04  # type: ignore[attr-defined]
    np.testing.assert_allclose(visible_things(simulation, task), [[0, 0, 0, 0, 1, 0.1, 0.2, 0.02]])
    simulation.mug.raw_pose[:, :3] = th.tensor([0.3, 0.2, 0.04])  # type: ignore[attr-defined]
    assert visible_things(simulation, task)[0, 4] == 1


def sheet(x: np.ndarray, y: np.ndarray, up: float) -> Mesh:
    """A flat mesh at height 0 through a lattice of points, each triangle with vertices of its own."""
    grid = np.stack(np.meshgrid(x, y, [0.0], indexing="ij"), axis=-1)[:, :, 0]
    a, b, c, d = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
    corners = np.concatenate([np.stack((a, b, c), axis=2), np.stack((a, c, d), axis=2)]).reshape(-1, 3).astype(np.float32)
    normals = np.tile(np.array([0, 0, up], dtype=np.float32), (len(corners), 1))
    triangles = np.arange(len(corners), dtype=np.uint32).reshape(-1, 3)
    return Mesh(corners, triangles, normals, corners[:, :2])


def area(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.triangles].transpose(1, 0, 2).astype(np.float64)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def test_a_finely_divided_mesh_becomes_a_coarse_one_of_the_same_shape() -> None:
    fine = sheet(np.linspace(0.0, 8.0, 41), np.linspace(0.0, 3.0, 16), up=1.0)
    coarse = simplify(fine, 1.0)
    assert (len(fine.triangles), len(coarse.triangles), len(coarse.vertices)) == (1200, 48, 36)
    for bound in (np.min, np.max):
        np.testing.assert_allclose(bound(coarse.vertices, axis=0), bound(fine.vertices, axis=0), atol=0.5)
    assert area(coarse) == pytest.approx(
        np.prod(np.ptp(coarse.vertices[:, :2], axis=0)), rel=0.05
    )  # no holes, a jagged border
    np.testing.assert_array_equal(coarse.uvs, coarse.vertices[:, :2])
    np.testing.assert_array_equal(coarse.normals, np.tile([0.0, 0.0, 1.0], (36, 1)))


def test_what_faces_elsewhere_is_not_merged_and_no_triangle_is_drawn_twice() -> None:
    coarse = np.arange(3.0)
    top, bottom = sheet(coarse, coarse, up=1.0), sheet(coarse, coarse, up=-1.0)
    parts = (top, bottom, top)
    triangles = [np.roll(part.triangles, turn, axis=1) + turn * len(part.vertices) for turn, part in enumerate(parts)]
    vertices, normals, uvs = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("vertices", "normals", "uvs")
    )
    whole = Mesh(vertices, np.concatenate(triangles), normals, uvs)
    merged = simplify(whole, 0.5)
    assert (len(merged.vertices), len(merged.triangles)) == (18, 16)
    assert area(merged) == pytest.approx(8.0)
    for corners in merged.triangles:
        assert len({float(merged.normals[corner, 2]) for corner in corners}) == 1


@pytest.mark.parametrize("obs_mode", ["rgb", "rgb_joints"])
def test_official_episodes_are_episodes_of_the_image_modes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, obs_mode: str
) -> None:
    monkeypatch.setattr(mikasa_episodes, "make_simulation", lambda *arguments: FakeSimulation(1, images=True))
    env = MikasaEnv("RememberColor3", obs_mode=obs_mode, camera_size=16)
    stored = {  # as the suite writes them: actions as the agent says them, and at the end the next episode's success
        "rgb": np.zeros((60, 16, 16, 6), np.uint8),
        "joints": np.zeros((60, 25), np.float32),
        "action": np.full((60, 8), 1.7, np.float32),
        "reward": np.zeros(60, np.float32),
        "success": np.arange(60) // 30 % 2 - (np.arange(60) == 59),
        "done": (np.arange(60) == 59).astype(np.int64),
    }
    np.savez(tmp_path / "train_data_0.npz", **stored)
    (episode,) = NpzEpisodes(tmp_path, env.observation_space, env.action_space)
    assert isinstance(episode.observations, dict)
    assert set(episode.observations) == set(env.observation_space)
    np.testing.assert_array_equal(episode.actions, 1.0)


def test_a_task_without_a_scripted_expert_says_so(fake: FakeSimulation) -> None:
    fake.ball = fake.goal_region = fake.cubes[0]  # type: ignore[attr-defined]
    env = MikasaEnv("InterceptSlow")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"`task`.* RememberColor3.* 'InterceptSlow'"):
        env.oracle_action()

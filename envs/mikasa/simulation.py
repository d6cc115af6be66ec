"""Building MIKASA-Robo's simulations in ManiSkill 3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch as th
from gymnasium.error import DependencyNotInstalled

from .culling import Culling
from .meshes import simplify_wrist_camera
from .scenes import in_scenes
from .tasks import TASKS

INSTALL = 'pip install "sb3-elmur[maniskill]" && pip install --no-deps "mikasa-robo-suite==1.0.0"'
SYSTEM = "make mikasa-system"
NO_DRIVER = ("rendering device", "physical device", "vk::")  # in what SAPIEN raises without a driver, or with an old one
MUG_FILES = ("info_pick_v0.json", "models/025_mug/collision.ply", "models/025_mug/textured.obj")
REWARDS = {"dense": "normalized_dense", "sparse": "sparse"}  # ours: ManiSkill's
CAMERAS = ("base_camera", "hand_camera")


def import_tasks() -> dict[str, Any]:
    """
    Import ManiSkill and the suite.

    :return: ManiSkill's specifications of environments, by id.
    :raises DependencyNotInstalled: If one of them is missing.
    """
    try:
        registration = import_module("mani_skill.utils.registration")
        import_module("mikasa_robo_suite.rl.memory_envs")  # registers the tasks; the suite's root registers nothing
    except ModuleNotFoundError as error:
        raise DependencyNotInstalled(f"{error.name} is missing: run `{INSTALL}`.") from error
    except ImportError as error:
        raise DependencyNotInstalled(
            f"{error}. ManiSkill's OpenCV needs it: on Debian `apt-get install libgl1 libglib2.0-0`, or `{SYSTEM}`."
        ) from error
    return registration.REGISTERED_ENVS


def require_mug() -> None:
    """
    Look for the mug of the shell games, for which ManiSkill would ask at the prompt, and end the process.

    :raises DependencyNotInstalled: If a file is missing.
    """
    folder = import_module("mani_skill").ASSET_DIR / "assets" / "mani_skill2_ycb"
    for name in MUG_FILES:
        if not (folder / name).is_file():
            raise DependencyNotInstalled(
                f"{folder / name} is missing, a part of the mug of the shell games: run `python -m "
                "mani_skill.utils.download_asset ycb`, or unpack mani_skill2_ycb.zip of the data set haosulab/ManiSkill2 "
                f"into {folder.parent}. The variable MS_ASSET_DIR moves {folder.parents[2]} elsewhere."
            )


def make_simulation(
    task: str,
    n_envs: int,
    reward_mode: str,
    observed: str,
    camera_size: int,
    delta_time: int | None = None,
    render_mode: str | None = None,
) -> Any:
    """
    Make the suite's own environment of a task.

    :param task: One of ``TASKS``.
    :param n_envs: Episodes that it plays at once; to draw more than one an NVIDIA GPU is needed.
    :param reward_mode: One of ``REWARDS``.
    :param observed: What its own observation is: "rgb", the images of the two cameras, "state" or "none".
    :param camera_size: Height and width of these images in pixels.
    :param delta_time: Steps between the cue and the choice, where the suite lets one choose them, else None.
    :param render_mode: Of ManiSkill.
    :return: It, without any of ManiSkill's or the suite's wrappers.
    :raises DependencyNotInstalled: If ManiSkill, the suite, the mug, or what renders is missing.
    """
    specification = import_tasks()[f"{task}-v0"]
    if TASKS[task].needs_mug:
        require_mug()
    rendering = observed == "rgb" or render_mode is not None
    arguments = {
        "num_envs": n_envs,
        "obs_mode": observed,
        "reward_mode": REWARDS[reward_mode],
        "sensor_configs": {"width": camera_size, "height": camera_size},
        "render_mode": render_mode,
        "render_backend": ("gpu" if th.cuda.is_available() else "cpu") if rendering else "none",
        "reconfiguration_freq": 0,  # the shell games would build the scene anew for every episode, with the same mugs
    }
    if delta_time is not None:
        arguments["delta_time"] = delta_time
    if not rendering:
        with _without_materials():
            if n_envs > 1 and th.cuda.is_available():
                return specification.cls(**arguments)
            return in_scenes(specification.cls)(**arguments, sim_backend="physx_cpu")
    try:
        simulation = specification.cls(**arguments)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in NO_DRIVER):
            raise
        raise DependencyNotInstalled(
            f"Nothing here can render ({error}): SAPIEN needs a Vulkan driver, such as Mesa's from version 23 on. "
            f"On Debian 12 `apt-get install -t bookworm-backports mesa-vulkan-drivers libvulkan1`, or `{SYSTEM}`."
        ) from error
    if arguments["render_backend"] == "cpu":
        simplify_wrist_camera(simulation)
        Culling(simulation)
    return simulation


@contextmanager
def _without_materials() -> Iterator[None]:
    """Let scenes that are never drawn be built without a Vulkan driver, which SAPIEN's materials would ask for."""
    sapien = import_module("sapien")
    owners: list[Any] = [sapien.render, sapien.pysapien.render, import_module("sapien.wrapper.urdf_loader")]
    kept = [owner.RenderMaterial for owner in owners]
    for owner in owners:
        owner.RenderMaterial = _NoMaterial
    try:
        yield
    finally:
        for owner, material in zip(owners, kept, strict=True):
            owner.RenderMaterial = material


class _NoMaterial:
    """Stands for a material of what is never drawn."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        pass

"""What the tests in MIKASA-Robo's simulator share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from gymnasium.error import DependencyNotInstalled

from mikasa_fakes import write_mug
from sb3_elmur.envs import MikasaEnv


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The simulator and the suite, with a mug of our own unless the user has the real one; without them the run ends."""
    if "mani_skill" not in sys.modules and "MS_ASSET_DIR" not in os.environ:
        default = Path.home() / ".maniskill" / "data" / "assets" / "mani_skill2_ycb"
        if not default.exists():
            folder = tmp_path_factory.mktemp("assets")
            os.environ["MS_ASSET_DIR"] = str(folder)
            try:
                write_mug(folder)
            except ModuleNotFoundError as error:
                pytest.exit(f"{error}, which comes with ManiSkill: run `make test-mikasa`", returncode=2)
    try:
        MikasaEnv("RememberColor3", render_mode="rgb_array").close()
    except DependencyNotInstalled as error:
        pytest.exit(str(error), returncode=2)

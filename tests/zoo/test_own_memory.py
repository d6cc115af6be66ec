"""The zoo's commands take a memory of one's own by its path."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rl_zoo3")

import sb3_elmur
from sb3_elmur.cli import main

ENV = "TMazePassive10-v0"
CORE = {"core": "own_memory_of_train:MinGRU", "core_kwargs": {"gate_bias": -3.0}, "d_model": 8}
SETTINGS = {"n_envs": 2, "n_timesteps": 16, "n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy": "ElmurPolicy"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module in the current folder, with a memory in it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parents[2] / "examples" / "own_memory.py", "own_memory_of_train.py")
    Path("settings.yml").write_text(yaml.safe_dump({ENV: SETTINGS | {"policy_kwargs": CORE}}))
    return "own_memory_of_train"


@pytest.mark.parametrize(
    "settings",
    [
        ["-params", f"policy_kwargs:{CORE}", *(f"{key}:{value!r}" for key, value in SETTINGS.items())],
        ["--conf-file", "settings.yml"],
    ],
    ids=["options", "file"],
)
def test_a_memory_of_ones_own_is_trained_and_watched(settings: list[str], module: str, monkeypatch: Any) -> None:
    own = ["--env", ENV, "--gym-packages", module, "-f", "logs"]
    for arguments in (["train", *own, "--eval-freq", "-1", "-n", "16", *settings], ["enjoy", *own, "-n", "8", "--no-render"]):
        monkeypatch.setattr(sys, "argv", ["sb3-elmur", *arguments])
        main()
    model = sb3_elmur.RecurrentPPO.load(Path("logs", "ppo_elmur", f"{ENV}_1", f"{ENV}.zip"), device="cpu")
    assert type(model.policy.backbone.core).__module__ == module

"""The zoo's commands with an environment that raises an error at an invalid action."""

import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium
import pytest
import yaml
from gymnasium import spaces
from mask_helpers import MaskedEnv

from sb3_elmur.cli import main

pytest.importorskip("rl_zoo3")

SMALL = {"d_model": 8, "n_heads": 2, "segment_length": 4, "memory_size": 2}
SETTINGS = {"policy": "ElmurPolicy", "n_envs": 2, "n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": SMALL}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Runs a command of ``sb3-elmur`` with the environment ``Masked-v0``."""
    spec = gymnasium.envs.registration.EnvSpec("Masked-v0", lambda **_: MaskedEnv(spaces.Discrete(6)))
    monkeypatch.setitem(gymnasium.registry, "Masked-v0", spec)
    monkeypatch.chdir(tmp_path)
    Path("settings.yml").write_text(yaml.safe_dump({"Masked-v0": SETTINGS | {"n_timesteps": 32}}))

    def run(name: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["sb3-elmur", name, *arguments, "--env", "Masked-v0"])
        main()

    return run


def test_training_evaluation_and_enjoy_take_no_invalid_action(command: Callable[..., None]) -> None:
    command("train", "--conf-file", "settings.yml", "--eval-freq", "16", "--eval-episodes", "2")
    assert Path("logs/ppo_elmur/Masked-v0_1/evaluations.npz").exists()
    command("enjoy", "-n", "40", "--no-render")
    command("evaluate", "logs/ppo_elmur/Masked-v0_1/Masked-v0.zip", "--episodes", "5")


def test_a_search_takes_no_invalid_action(command: Callable[..., None]) -> None:
    pytest.importorskip("optuna")
    trials = ["--n-trials", "1", "--n-evaluations", "1", "--eval-episodes", "2", "--n-startup-trials", "1"]
    command("tune", "--conf-file", "settings.yml", "-n", "32", *trials)

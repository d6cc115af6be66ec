"""The scripts of ``examples/`` run, with few steps."""

import runpy
import sys
from pathlib import Path

import pytest

from docs_helpers import shorten_ppo
from sb3_elmur import RecurrentPPO

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = {
    "train_online": ["--total-timesteps", "1"],
    "own_environment": ["--total-timesteps", "1"],
    "clone_then_finetune": ["--episodes", "4", "--n-epochs", "1", "--total-timesteps", "1"],
    "evaluate_and_inspect": ["model.zip", "--lengths", "10", "--episodes", "20"],
    "deploy": ["model.zip", "--steps", "20"],
    "own_memory": ["--total-timesteps", "1"],
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == EXAMPLES.keys()


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shorten_ppo(monkeypatch)
    if "model.zip" in EXAMPLES[example]:
        policy_kwargs = {"d_model": 16, "segment_length": 4, "memory_size": 2}
        RecurrentPPO("ElmurPolicy", "TMazePassive-v0", policy_kwargs=policy_kwargs).save("model.zip")
    monkeypatch.setattr(sys, "argv", [f"{example}.py", *EXAMPLES[example]])
    runpy.run_path(str(FOLDER / f"{example}.py"), run_name="__main__")

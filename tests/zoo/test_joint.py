"""``torchrun -m sb3_elmur.zoo train``: several processes, one run folder, one agent."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sb3_elmur
from sb3_elmur.command_line import SettingsError
from sb3_elmur.distributed import Group, LostProcessError

pytest.importorskip("rl_zoo3", reason='rl_zoo3 is missing: pip install "sb3-elmur[zoo]"')

from sb3_elmur.zoo import joint

MAZE = "TMazePassive10-v0"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TRAIN = ["--env", MAZE, "--seed", "0", "--eval-freq", "256", "--eval-episodes", "2", "--device", "cpu"]
SETTINGS = ["-params", "n_envs:4", "n_steps:8", "batch_size:32", "n_epochs:1", "normalize:True", "env_kwargs:{}"]


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [*TORCHRUN, "-m", "sb3_elmur.zoo", "train", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def child_of(parent: int, rank: int) -> int:
    """The process of a rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(child) for child in children if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text())


def test_a_lost_process_is_told_with_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint, "current_group", lambda: Group(0, 2))
    handler = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(SettingsError, match=r"it is gone.*--continue 'my logs/run'"),
        joint.told_how_to_go_on("my logs/run"),
    ):
        raise LostProcessError("it is gone.")
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path: Path) -> None:
    process = start(tmp_path, *TRAIN, "-n", "512", *SETTINGS)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert output.count("Log path") == output.count("Saving to") == 1
    (run,) = (tmp_path / "logs" / "ppo_elmur").iterdir()
    assert sb3_elmur.RecurrentPPO.load(run / f"{MAZE}.zip").num_timesteps == 512
    assert np.load(run / "evaluations.npz")["timesteps"].tolist() == [256, 512]
    refused = start(tmp_path, *TRAIN, "-n", "512", *SETTINGS, "n_envs:3")
    assert "`n_envs`" in refused.communicate(timeout=900)[1]
    assert refused.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_whose_process_was_killed_says_how_to_go_on_and_does(tmp_path: Path, rank: int) -> None:
    process = start(tmp_path, *TRAIN, "-n", "2048", *SETTINGS)
    run = tmp_path / "logs" / "ppo_elmur" / f"{MAZE}_1"
    while len(list(run.glob("resume/*/state.pt"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(child_of(process.pid, rank))], check=True)
    errors = process.communicate(timeout=30)[1]
    cure = re.search(r"To go on, start the same torchrun with `-m sb3_elmur.zoo train (.+?)`", errors)
    assert cure, errors
    again = start(tmp_path, *cure[1].split())
    output, errors = again.communicate(timeout=900)
    assert again.returncode == 0, errors
    assert int(re.findall(r"Going on after (\d+) of 2048", output)[0]) > 0
    assert sb3_elmur.RecurrentPPO.load(run / f"{MAZE}.zip").num_timesteps == 2048

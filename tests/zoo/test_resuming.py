"""Interrupted runs of ``sb3-elmur train``, continued: nothing is lost, nothing counted twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import VecNormalize

import sb3_elmur
from sb3_elmur.cli import main
from sb3_elmur.command_line import SettingsError

pytest.importorskip("rl_zoo3", reason='rl_zoo3 is missing: pip install "sb3-elmur[zoo]"')

from sb3_elmur.zoo import resuming, states
from sb3_elmur.zoo.resuming import ContinuedExperimentManager, _restore_evaluations
from sb3_elmur.zoo.saving import save
from sb3_elmur.zoo.states import FOLDER, SaveState, latest_state

MAZE = "TMazePassive10-v0"
RUN = Path("logs", "ppo_elmur", f"{MAZE}_1")
N_STEPS = 512
TRAIN = [
    "train", "--env", MAZE, "-n", str(N_STEPS), "--seed", "0", "--eval-freq", "64", "--eval-episodes", "2", "-params",
    "n_envs:4", "n_steps:8", "batch_size:32", "n_epochs:1", "normalize:True", "env_kwargs:{}",
]  # fmt: skip


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command, in this process."""
    monkeypatch.setattr(sys, "argv", ["sb3-elmur", *arguments])
    main()


def kill_after(monkeypatch: pytest.MonkeyPatch, n_rollouts: int, error: type[BaseException] = Killed) -> None:
    """Let the next training end as if killed, before one of its rollouts."""
    begin, count = SaveState._on_rollout_start, iter(range(n_rollouts))

    def beginning(callback: SaveState) -> None:
        begin(callback)
        if next(count, None) is None:
            raise error

    monkeypatch.setattr(SaveState, "_on_rollout_start", beginning)


def train_until_killed(monkeypatch: pytest.MonkeyPatch, n_rollouts: int, *arguments: str) -> None:
    """The command, killed before one of its rollouts; the next one is not."""
    with monkeypatch.context() as patch:
        kill_after(patch, n_rollouts)
        with pytest.raises(Killed):
            run(patch, *arguments)


def check_finished(n_steps: int = N_STEPS) -> sb3_elmur.RecurrentPPO:
    """A finished run has learned from all steps, and its logs tell each of them once."""
    model = sb3_elmur.RecurrentPPO.load(RUN / f"{MAZE}.zip")
    assert model.num_timesteps == n_steps
    assert not (RUN / FOLDER).exists()
    assert load_results(str(RUN))["l"].sum() <= n_steps
    evaluated = np.load(RUN / "evaluations.npz")["timesteps"]
    assert evaluated.tolist() == sorted(set(evaluated.tolist()))
    assert evaluated[-1] == n_steps
    return model


@pytest.mark.parametrize("times", [(0,), (5,), (3, 2, 6)], ids=str)
def test_an_interrupted_run_goes_on_in_its_folder(
    times: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = TRAIN
    for n_rollouts in times:
        train_until_killed(monkeypatch, n_rollouts, *arguments)
        arguments = ["train", "--continue", str(RUN)]
    state = latest_state(RUN)
    assert (0 if state is None else state.n_timesteps) == 32 * sum(times)
    run(monkeypatch, *arguments)
    model = check_finished()
    assert model._n_updates == N_STEPS // 32
    assert model.lr_schedule(model._current_progress_remaining) == pytest.approx(0.0, abs=1e-4)
    assert [path.name for path in RUN.parent.iterdir()] == [RUN.name]


@pytest.mark.parametrize(("n_rollouts", "options"), [(0, ["--eval-freq", "-1"]), (5, [])])
def test_a_run_that_ctrl_c_interrupts_keeps_its_model_and_goes_on(
    n_rollouts: int, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        kill_after(patch, n_rollouts, KeyboardInterrupt)
        run(patch, *TRAIN, *options)
    assert f"To go on: sb3-elmur train --continue {RUN}" in capsys.readouterr().out
    assert (RUN / f"{MAZE}.zip").exists()
    run(monkeypatch, "train", "--continue", str(RUN))
    assert sb3_elmur.RecurrentPPO.load(RUN / f"{MAZE}.zip")._n_updates == N_STEPS // 32
    assert not (RUN / FOLDER).exists()


def test_a_run_that_began_with_a_trained_agent_begins_with_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        kill_after(patch, 0)
        patch.setattr(SaveState, "_on_training_start", lambda callback: callback.model.save("agent"))
        with pytest.raises(Killed):
            run(patch, *TRAIN, "normalize:False", "--seed", "1")
        with pytest.raises(Killed):
            run(patch, "train", "-i", "agent.zip", *TRAIN[1:], "normalize:False")
    second = RUN.with_name(f"{MAZE}_2")
    begun: list[dict[str, Any]] = []

    def note(callback: SaveState) -> None:
        begun.append({name: weight.clone() for name, weight in callback.model.policy.state_dict().items()})
        raise Killed

    monkeypatch.setattr(SaveState, "_on_training_start", note)
    with pytest.raises(Killed):
        run(monkeypatch, "train", "--continue", str(second))
    for name, weight in sb3_elmur.RecurrentPPO.load("agent").policy.state_dict().items():
        np.testing.assert_array_equal(begun[0][name], weight)
    Path("agent.zip").unlink()
    with pytest.raises(SystemExit):
        run(monkeypatch, "train", "--continue", str(second))
    assert "`--trained-agent` must be the .zip file of a model. Received 'agent.zip'." in capsys.readouterr().err


def test_the_latest_two_states_are_kept_and_half_of_one_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kill_after(monkeypatch, 4)
    with pytest.raises(Killed):
        run(monkeypatch, *TRAIN)
    assert {path.name for path in (RUN / FOLDER).glob("*.zip")} == {"rl_model_96_steps.zip", "rl_model_128_steps.zip"}
    state = latest_state(RUN)
    assert state is not None
    (state.model.with_suffix("") / "state.pt").unlink()
    state = latest_state(RUN)
    assert state is not None
    assert state.n_timesteps == 96


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kill_after(monkeypatch, 2)
    with pytest.raises(Killed):
        run(monkeypatch, *TRAIN)  # this process lives on, and may still train
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "sb3_elmur.zoo", "train", "--continue", str(RUN)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert f"error: Another process trains in '{RUN}'." in result.stderr
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "resume" / "rl_model_64_steps"
    folder.mkdir(parents=True)
    folder.with_suffix(".zip").touch()
    th.save({"generators": {}, "logs": {}, "weights": {}}, folder / "state.pt")
    with pytest.raises(SettingsError, match=r"state\.pt is damaged, or of another version: .*n_averaged"):
        latest_state(tmp_path)


@pytest.mark.parametrize(
    "damaged", ["rl_model_128_steps/state.pt", "rl_model_128_steps.zip", "rl_model_128_steps/vecnormalize.pkl"]
)
def test_a_damaged_state_is_told_and_the_one_before_it_taken(
    damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    kill_after(monkeypatch, 4)
    with pytest.raises(Killed):
        run(monkeypatch, *TRAIN)
    path = RUN / FOLDER / damaged
    path.write_bytes(path.read_bytes()[:500])
    state = latest_state(RUN)
    assert state is not None
    assert state.n_timesteps == 96
    assert "rl_model_128_steps/state.pt is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "saved"), [(0.0, True), (1e9, False)])
def test_a_state_is_saved_now_and_then_however_long_training_is(
    seconds: float, saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(states, "SECONDS", seconds)
    for arguments in ((*TRAIN, "-n", "1000000"), ("train", "--continue", str(RUN))):
        train_until_killed(monkeypatch, 2, *arguments)
    assert (latest_state(RUN) is not None) == saved
    assert ("it begins anew" in capsys.readouterr().out) != saved


def test_logs_that_are_not_there_any_more_are_missed_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    train_until_killed(monkeypatch, 4, *TRAIN)
    (RUN / "0.monitor.csv").unlink()
    run(monkeypatch, "train", "--continue", str(RUN))
    check_finished()
    assert "0.monitor.csv is not there any more" in capsys.readouterr().out


def test_a_run_that_another_process_has_finished_meanwhile_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train_until_killed(monkeypatch, 4, *TRAIN)
    found = resuming.find_run(RUN)
    run(monkeypatch, "train", "--continue", str(RUN))
    before = (RUN / f"{MAZE}.zip").read_bytes()
    with pytest.raises(SettingsError, match="is finished"):
        resuming.continue_run(RUN, *found)
    assert (RUN / f"{MAZE}.zip").read_bytes() == before
    check_finished()


@pytest.mark.parametrize("option", [("-n", "1024"), ("--seed", "7"), ("-params", "n_epochs:9"), ("--bogus",)], ids=str)
def test_what_would_be_ignored_beside_continue_is_refused(
    option: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "train", "--continue", str(RUN), *option)
    assert f"there may be `--gym-packages` and `--device`. Received {' '.join(option)}." in capsys.readouterr().err


def test_a_pair_of_model_and_statistics_survives_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = VecNormalize(make_vec_env("CartPole-v1"))
    model = sb3_elmur.RecurrentPPO("ElmurPolicy", env, n_steps=8, policy_kwargs={"d_model": 8, "n_layers": 1})
    save(model, tmp_path / "model.zip")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert {path.name for path in before} == {"model.zip", "vecnormalize.pkl"}
    model.learn(16)

    def fill(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(model, "save", fill)
    with pytest.raises(OSError, match="No space"):
        save(model, tmp_path / "model.zip")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_the_best_reward_is_that_of_the_model_that_was_saved(tmp_path: Path) -> None:
    """An evaluation is noted before its model is saved: a run may be killed between the two."""
    env = make_vec_env("CartPole-v1")
    model = sb3_elmur.RecurrentPPO("ElmurPolicy", env, n_steps=8, policy_kwargs={"d_model": 8, "n_layers": 1})
    callback = EvalCallback(env, best_model_save_path=str(tmp_path), log_path=str(tmp_path))
    results, lengths = np.array([[1.0, 3.0], [9.0, 9.0], [5.0, 5.0]]), np.ones((3, 2))
    np.savez(tmp_path / "evaluations.npz", timesteps=[8, 16, 24], results=results, ep_lengths=lengths)
    _restore_evaluations(callback, tmp_path / "best_model.zip", 16)
    assert callback.best_mean_reward == -np.inf
    model.learn(8).save(tmp_path / "best_model.zip")
    _restore_evaluations(callback, tmp_path / "best_model.zip", 16)
    assert callback.best_mean_reward == 2.0
    assert callback.evaluations_timesteps == [8, 16]


def test_a_continued_run_knows_its_best_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_until_killed(monkeypatch, 6, *TRAIN)
    restored: list[EvalCallback] = []

    def begin(manager: ContinuedExperimentManager, _: Any) -> None:
        restored.extend(callback for callback in manager.callbacks if isinstance(callback, EvalCallback))
        raise Killed

    monkeypatch.setattr(ContinuedExperimentManager, "learn", begin)
    with pytest.raises(Killed):
        run(monkeypatch, "train", "--continue", str(RUN))
    results = np.load(RUN / "evaluations.npz")["results"].mean(axis=1)
    assert restored[0].best_mean_reward == results.max()


@pytest.mark.parametrize(("given", "device"), [([], "cpu"), (["--device", "meta"], "meta")])
def test_a_continued_run_keeps_its_device_unless_another_is_given(
    given: list[str], device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train_until_killed(monkeypatch, 1, *TRAIN, "--device", "cpu")
    devices = []
    monkeypatch.setattr(resuming, "continue_run", lambda _, options, __: devices.append(options.device))
    run(monkeypatch, "train", "--continue", str(RUN), *given)
    assert devices == [device]


def test_a_full_disk_that_shows_when_bytes_are_flushed_leaves_the_former_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = VecNormalize(make_vec_env("CartPole-v1"))
    model = sb3_elmur.RecurrentPPO("ElmurPolicy", env, n_steps=8, policy_kwargs={"d_model": 8, "n_layers": 1})
    save(model, tmp_path / "model.zip")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    flush, count = os.fsync, iter(range(2))

    def fill(descriptor: int) -> None:
        if next(count) == 1:  # the model's bytes, after those of its statistics
            raise OSError("No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(OSError, match="No space"):
        save(model.learn(16), tmp_path / "model.zip")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_a_continued_run_has_the_weights_that_trained_and_their_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def weights(callback: SaveState) -> dict[str, Any]:
        policies = {"trained": callback.model.policy, "average": callback.model.averaged_policy}
        states = {which: policy.state_dict().items() for which, policy in policies.items()}
        return {f"{which} {name}": weight.clone() for which, state in states.items() for name, weight in state}

    kept: list[tuple[int, dict[str, Any]]] = []
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        save = SaveState._on_rollout_start

        def save_and_keep(callback: SaveState) -> None:
            kept.append((callback.model.average.n_updates, weights(callback)))
            save(callback)

        patch.setattr(SaveState, "_on_rollout_start", save_and_keep)
        with pytest.raises(Killed):
            run(patch, *TRAIN)

    def compare(callback: SaveState) -> None:
        n_updates, before = kept[-1]
        assert callback.model.average.n_updates == n_updates > 0
        for name, weight in weights(callback).items():
            np.testing.assert_array_equal(weight, before[name])
        raise Killed

    monkeypatch.setattr(SaveState, "_on_rollout_start", compare)
    with pytest.raises(Killed):
        run(monkeypatch, "train", "--continue", str(RUN))


@pytest.mark.parametrize("finished", [False, True])
def test_what_is_no_interrupted_run_is_refused(
    finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    if finished:
        run(monkeypatch, *TRAIN)
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "train", "--continue", str(RUN))
    assert ("is finished" if finished else "`--continue` must be the folder of a run") in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_times_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    n_steps, rng = 4096, random.Random(int(os.environ.get("KILL_SEED", "0")))
    arguments = [word if word != str(N_STEPS) else str(n_steps) for word in TRAIN]
    command = [sys.executable, "-c", "from sb3_elmur.cli import main; main()"]
    for _ in range(int(os.environ.get("N_KILLS", "3"))):
        with subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not (RUN / MAZE / "args.yml").exists():
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 10))
            process.send_signal(signal.SIGKILL)
        if (RUN / f"{MAZE}.zip").exists():
            break
        arguments = ["train", "--continue", str(RUN)]
    if not (RUN / f"{MAZE}.zip").exists():
        result: Any = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    check_finished(n_steps)

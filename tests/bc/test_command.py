"""The command ``sb3-elmur bc``: its options, what it records, how it goes on, and mistakes."""

import importlib.resources
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from torch import nn

import sb3_elmur
from cloning_helpers import equal
from helpers import make_env
from sb3_elmur.bc.command import main
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.options import parse
from sb3_elmur.bc.runs import new_run_folder, record_run, recorded_arguments
from sb3_elmur.bc.trainer import BC, BEST_MODEL, CHECKPOINT
from sb3_elmur.claims import claim, release
from sb3_elmur.envs import TMazeEnv

ENV = "TMazePassive10-v0"
CONFIG: dict[str, Any] = {
    "policy_kwargs": {"d_model": 8, "n_heads": 2, "segment_length": 4, "memory_size": 1, "dropout": 0.1},
    "n_epochs": 3, "batch_size": 4, "n_eval_episodes": 2, "eval_freq": 1, "save_freq": 2,
}  # fmt: skip


PACKAGED = yaml.safe_load(importlib.resources.files("sb3_elmur.zoo_configs").joinpath("bc_elmur.yml").read_text())


@pytest.mark.parametrize("env_id", PACKAGED)
def test_every_key_of_the_settings_is_built(env_id: str) -> None:
    entry = PACKAGED[env_id]
    env_id = "CartPole-v1" if env_id == "default" else env_id
    settings = parse(["--env", env_id, "--data", ""]).options.settings
    model = sb3_elmur.RecurrentPPO(settings.policy, make_env(env_id), policy_kwargs=settings.policy_kwargs, device="cpu")
    assert model.policy.config.segment_length == entry["policy_kwargs"]["segment_length"]
    assert settings.training.bptt_segments == entry["bptt_segments"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten episodes of an expert, for ``--data``; the hyper-parameters lie beside it."""
    folder = tmp_path / "data"
    folder.mkdir()
    env = TMazeEnv(length=10, corridor_length=(2, 8))
    for index in range(10):
        observations, actions = [env.reset(seed=index)[0]], []
        done = False
        while not done:
            actions.append(env.oracle_action())
            obs, _, done, _, _ = env.step(actions[-1])
            observations.append(obs)
        np.savez(folder / f"train_data_{index}.npz", observation=observations[:-1], action=actions)
    (tmp_path / "bc.yml").write_text(yaml.safe_dump({"default": CONFIG}))
    return folder


def command(data: Path, *more: str) -> list[str]:
    root = data.parent
    given = ["--env", ENV, "--data", str(data), "--conf-file", str(root / "bc.yml"), "-f", str(root / "logs")]
    return [*given, "--device", "cpu", *more]


def run_folder(data: Path, number: int = 1) -> Path:
    return data.parent / "logs" / "bc_elmur" / f"{ENV}_{number}"


def weights(run: Path) -> dict[str, th.Tensor]:
    return dict(sb3_elmur.RecurrentPPO.load(run / f"{ENV}.zip", device="cpu").policy.state_dict())


def test_the_command_trains_logs_and_saves(data: Path, capsys: pytest.CaptureFixture) -> None:
    logs = data.parent / "tensorboard"
    overrides = ["--learning-rate", "2e-3", "--policy-kwargs", "d_model:12", "dropout:0.0", "--env-kwargs", "reward:eased"]
    arguments = command(data, *overrides, "--mixed-precision", "--n-eval-envs", "2", "-tb", str(logs))
    main(arguments)
    run = run_folder(data)
    assert {path.name for path in run.iterdir()} == {ENV, f"{ENV}.zip", BEST_MODEL, CHECKPOINT, ".lock"}
    assert {path.name for path in (run / ENV).iterdir()} == {"config.yml", "args.yml", "command.txt"}
    config = yaml.safe_load((run / ENV / "config.yml").read_text())
    assert config["policy_kwargs"] == CONFIG["policy_kwargs"] | {"d_model": 12, "dropout": 0.0}
    assert config["env_kwargs"] == {"reward": "eased"}
    assert (config["learning_rate"], config["mixed_precision"], config["n_epochs"]) == (2e-3, True, 3)
    assert yaml.safe_load((run / ENV / "args.yml").read_text())["env"] == ENV
    recorded = (run / ENV / "command.txt").read_text()
    assert shlex.split(recorded) == ["sb3-elmur", "bc", *arguments]
    for name in (f"{ENV}.zip", BEST_MODEL):
        model = sb3_elmur.RecurrentPPO.load(run / name)
        assert model.policy.config.d_model == 12
        assert model.env is None
    output = capsys.readouterr()
    assert f"Saved {run / ENV}.zip" in output.out
    assert "train/" in output.out
    assert "9/9" in output.err
    assert "batch" in output.err
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    (events,) = logs.iterdir()
    accumulator = EventAccumulator(str(events)).Reload()
    for tag in (
        "train/loss",
        "train/accuracy",
        "train/grad_norm",
        "train/learning_rate",
        "eval/mean_reward",
        "eval/success_rate",
    ):
        assert len(accumulator.Scalars(tag)) == 3
    main([*arguments, "--no-progress"])
    assert capsys.readouterr().err == ""
    assert run_folder(data, 2).is_dir()
    assert equal(weights(run_folder(data, 2)), weights(run))


def test_two_processes_do_not_train_in_one_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BC, "train_batch", interrupt)
    arguments = command(data, "--no-progress")
    with pytest.raises(SystemExit, match="To go on"):
        main(arguments)
    claim(run_folder(data), run_folder(data))
    program = [sys.executable, "-c", "from sb3_elmur.cli import main; main()", "bc", *arguments, "--continue"]
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == f"error: Another process trains in '{run_folder(data)}'."
    release(run_folder(data))


def test_a_run_folder_is_named_after_the_environment_alone(tmp_path: Path) -> None:
    assert new_run_folder(tmp_path, "package.module:Maze-v0") == tmp_path / "bc_elmur" / "Maze-v0_1"
    assert new_run_folder(tmp_path, "minigrid/Maze-v0") == tmp_path / "bc_elmur" / "minigrid-Maze-v0_1"


def test_a_memory_of_ones_own_is_cloned(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a module of the current folder."""
    monkeypatch.chdir(data.parent)
    shutil.copy(Path(__file__).parents[2] / "examples" / "own_memory.py", "own_memory_of_bc.py")
    kwargs = ["core:own_memory_of_bc:MinGRU", "core_kwargs:{'gate_bias': -3.0}"]
    main(command(data, "--gym-packages", "own_memory_of_bc", "--policy-kwargs", *kwargs))
    core = sb3_elmur.RecurrentPPO.load(run_folder(data) / f"{ENV}.zip", device="cpu").policy.backbone.core
    assert type(core).__module__ == "own_memory_of_bc"


def test_the_command_takes_classes_by_their_dotted_paths(data: Path) -> None:
    path = "stable_baselines3.common.torch_layers.FlattenExtractor"
    main(command(data, "--policy-kwargs", f"features_extractor_class:{path}", "activation_fn:torch.nn.ELU", "net_arch:[4]"))
    run = run_folder(data)
    assert yaml.safe_load((run / ENV / "config.yml").read_text())["policy_kwargs"]["features_extractor_class"] == path
    policy = sb3_elmur.RecurrentPPO.load(run / f"{ENV}.zip", device="cpu").policy
    assert any(isinstance(module, nn.ELU) for module in policy.mlp_extractor.modules())


SHRINKING = ["--shrink-memory", "--validation", "0.2", "--policy-kwargs", "memory_size:4"]


def test_the_command_shrinks_memory(data: Path, capsys: pytest.CaptureFixture) -> None:
    """Also the one that goes on with a run that was interrupted after its training."""
    main(command(data, "--no-progress", *SHRINKING))
    run = run_folder(data)
    slots = int(re.search(r"^(\d) slots\. .* 4: ", capsys.readouterr().out, flags=re.MULTILINE)[1])  # type: ignore[index]
    assert sb3_elmur.RecurrentPPO.load(run / f"{ENV}.zip", device="cpu").policy.config.memory_size == slots
    assert (run / "slots_2" / CHECKPOINT).exists()
    assert yaml.safe_load((run / ENV / "config.yml").read_text())["shrink_memory"] is True
    whole = weights(run)
    (run / f"{ENV}.zip").unlink()
    shutil.rmtree(run / "slots_2")
    main(["--continue", str(run), "--no-progress"])
    assert equal(weights(run), whole)


def test_memory_that_cannot_be_shrunk_is_refused(data: Path, capsys: pytest.CaptureFixture) -> None:
    for more in (["--validation", "0"], ["--policy-kwargs", "memory_size:1"]):
        assert "to shrink memory. Received" in fails(command(data, *SHRINKING, *more), capsys)
    assert not run_folder(data).exists()


def test_what_is_no_class_is_refused(data: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(command(data, "--policy-kwargs", "activation_fn:ELU"))
    assert re.search("`activation_fn` .*'ELU'", capsys.readouterr().err)


KILLED = """
import os, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from sb3_elmur.bc.command import main
updates = []
def die(*_):
    updates.append(1)
    if len(updates) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
register_optimizer_step_post_hook(die)
main(sys.argv[1:])
"""


TUPLE = ["--env-kwargs", "corridor_length:(2, 8)"]  # YAML reads it as a list


@pytest.fixture
def killed(data: Path) -> Path:
    """Folder of a run that was killed after a checkpoint; the folder of a whole one is the first."""
    main(command(data, *TUPLE, "--no-progress"))
    result = subprocess.run([sys.executable, "-c", KILLED, *command(data, *TUPLE)], capture_output=True)
    assert result.returncode == -signal.SIGKILL
    run = run_folder(data, 2)
    assert not (run / f"{ENV}.zip").exists()
    return run


def test_a_killed_command_continues_to_the_same_model(data: Path, killed: Path) -> None:
    """Also a requeued one, which names no folder."""
    runs = [killed, run_folder(data, 3)]
    shutil.copytree(killed, runs[1])
    main(["--continue", str(killed), "--no-progress"])
    main([*command(data, *TUPLE), "--continue"])
    whole = run_folder(data)
    for run in runs:
        assert equal(weights(run), weights(whole))
        assert (run / ENV / "config.yml").read_text() == (whole / ENV / "config.yml").read_text()
    assert not run_folder(data, 4).exists()


@pytest.mark.usefixtures("ascii_machine")
def test_a_recorded_command_does_not_depend_on_the_machines_encoding(tmp_path: Path) -> None:
    record_run(tmp_path / ENV, {}, {}, ["--data", "données"])
    assert recorded_arguments(tmp_path) == ["--data", "données"]


def test_a_requeued_command_that_has_finished_begins_anew(data: Path) -> None:
    for _ in range(2):
        main([*command(data, "--n-epochs", "1"), "--continue"])
    assert run_folder(data, 2).exists()


@pytest.mark.parametrize("batch", [0, 5])
def test_an_interrupt_says_how_to_continue(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, batch: int
) -> None:
    """Also before the first checkpoint."""
    train_batch = BC.train_batch

    def interrupted(trainer: BC) -> None:
        if trainer.batches_done == batch:
            raise KeyboardInterrupt
        train_batch(trainer)

    monkeypatch.setattr(BC, "train_batch", interrupted)
    with pytest.raises(SystemExit, match="--continue") as error:
        main(command(data, "--no-progress"))
    assert (run_folder(data) / CHECKPOINT).exists() == (batch > 0)
    monkeypatch.setattr(BC, "train_batch", train_batch)
    program, name, *arguments = shlex.split(str(error.value.code).split("To go on: ")[1])
    assert (program, name) == ("sb3-elmur", "bc")
    main([*arguments, "--no-progress"])
    main(command(data, "--no-progress"))
    assert equal(weights(run_folder(data)), weights(run_folder(data, 2)))


def fails(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line that a command fails with, before it makes a folder."""
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text


def test_continuing_another_run_is_refused(data: Path, capsys: pytest.CaptureFixture) -> None:
    """What is another is named, with the value that it had."""
    main(command(data, "--no-progress", "--n-epochs", "1"))
    run, other = run_folder(data), data.parent / "other data"
    shutil.copytree(data, other)
    stored = dict(np.load(other / "train_data_3.npz"))
    np.savez(other / "train_data_3.npz", **stored | {"action": (stored["action"] + 1) % 4})
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for more, was in {
        ("--learning-rate", "1e-3"): "learning_rate=0.0003",
        ("--normalize",): "normalize=False",
        ("--env", "TMazePassive30-v0"): f"env='{ENV}'",
        ("--env-kwargs", "reward:eased"): "env_kwargs={}",
        ("--policy-kwargs", "activation_fn:torch.nn.ELU"): "policy_kwargs=",
        ("--seed", "3"): "seed=0",
        ("--data", str(other)): "data=",
    }.items():
        assert was in fails(["--continue", str(run), *more], capsys)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_held_out_episodes_choose_the_best_model(data: Path, capsys: pytest.CaptureFixture) -> None:
    main(command(data, "--no-progress", "--validation", "0.2"))
    assert "validation/" in capsys.readouterr().out
    assert (run_folder(data) / BEST_MODEL).exists()


@pytest.mark.parametrize(
    "imports",
    [["--gym-packages", "planted"], ["--gym_packages", "planted"], ["--env", "planted:TMazePassive10-v0"]],
    ids=lambda option: option[0],
)
def test_a_foreign_run_folder_chooses_no_imports(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, imports: list[str]
) -> None:
    monkeypatch.chdir(data.parent)
    Path("planted.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    run = data.parent / "run"
    (run / ENV).mkdir(parents=True)
    (run / ENV / "command.txt").write_text(shlex.join(["sb3-elmur", "bc", *command(data, *imports)]))
    assert " ".join(imports).replace("_", "-") in fails(["--continue", str(run)], capsys)
    assert not Path("imported").exists()
    monkeypatch.syspath_prepend(data.parent)
    main(["--continue", str(run), *imports, "--no-progress", "--n-epochs", "1"])
    assert Path("imported").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env", "Nonsense-v0"], "Nonsense"),
        (["--data", "nowhere"], "nowhere .npz"),
        (["--data", "minari:nowhere-v0"], "nowhere-v0"),
        (["--conf-file", "nowhere.yml"], "nowhere.yml"),
        (["--conf-file", "empty.yml"], "empty.yml None"),
        (["--conf-file", "list.yml"], "list.yml [1]"),
        (["--conf-file", "broken.yml"], "broken.yml YAML 1"),
        (["--conf-file", "key.yml"], "key.yml 'learning_rates' 'learning_rate'"),
        (["--conf-file", "other.yml"], f"other.yml {ENV} `default` CartPole-v1"),
        (["--conf-file", "text.yml"], "`learning_rate` '1e-3'"),
        (["--conf-file", "kwargs.yml"], "`policy_kwargs` 'dict(d_model=8)'"),
        (["--conf-file", "policy.yml"], "`policy` 3"),
        (["--policy-kwargs", "d_modell:8"], "`d_modell` `d_model`"),
        (["--policy-kwargs", "d_model:7"], "`d_model` `n_heads` (2) 7"),
        (["--policy-kwargs", "d_model"], "KEY:VALUE 'd_model'"),
        (["--policy", "MlpLstmPolicy", "--conf-file", "plain.yml"], "`policy`"),
        (["--policy", "Nonsense"], "Nonsense"),
        (["--env-kwargs", "lenth:3"], "lenth"),
        (["--n-eval-envs", "0"], "`n_eval_envs` 1 0"),
        (["--device", "nowhere"], "`--device` 'nowhere'"),
        (["--normalize", "--normalize-kwargs", "clip_obs:-1"], "`clip_obs` -1"),
        (["--normalize-kwargs", "clip_obs:5.0"], "`--normalize-kwargs` `--normalize` clip_obs"),
        (["--batch-size", "0"], "`batch_size` 1 0"),
        (["--batch-size", "many"], "--batch-size 'many'"),
        (["--nonsense", "3"], "--nonsense 3"),
        (["--gym-packages", "no_such_package"], "no_such_package"),
        (["--continue", "nowhere"], "`--continue` 'nowhere' command.txt"),
        (["--log-folder", "plain.yml"], "plain.yml"),
        (["--env", "MountainCar-v0"], "`observation` (T, 2)"),
        (["--seed", "-1"], "`--seed` -1"),
        (["--seed", "5000000000"], "`--seed` 4294967295 5000000000"),
        (["--policy", "ElmurCnnPolicy"], "`features_extractor_class` NatureCNN ElmurPolicy"),
        (["--policy-kwargs", "squash_output:True"], "`squash_output=True` `use_sde=True`"),
        (["--validation", "1.0"], "`validation` 1.0"),
        (["--monitor", "--policy-kwargs", "core:lstm"], "`core='lstm'`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_in_one_line(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], words: str
) -> None:
    """It names the option or file and the value, ``words``."""
    monkeypatch.chdir(data.parent)
    configs: dict[str, Any] = {
        "plain": {"default": {}},
        "list": [1],
        "other": {"CartPole-v1": {}},
        "key": {"default": {"learning_rates": 1.0}},
        "text": {"default": {"learning_rate": "1e-3"}},
        "kwargs": {"default": {"policy_kwargs": "dict(d_model=8)"}},
        "policy": {"default": {"policy": 3}},
    }
    for name, config in configs.items():
        Path(f"{name}.yml").write_text(yaml.safe_dump(config))
    Path("empty.yml").touch()
    Path("broken.yml").write_text("default: [")
    text = fails(command(data, *arguments), capsys)
    for word in words.split():
        assert word in text
    assert not (data.parent / "logs").exists()


def test_help_shows_the_defaults_of_an_environment(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--env", "TMazePassive30-v0", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in fields(BCConfig):
        assert f"--{field.name.replace('_', '-')} " in text.replace(",", " ")
    assert re.search(r"--bptt-segments INT [^-]*\(default: 6\)", text)
    assert "segment_length:5" in text


def test_the_command_looks_into_the_memory(data: Path, tmp_path: Path) -> None:
    main(command(data, "--no-progress", "--n-epochs", "1", "--monitor", "-tb", str(tmp_path / "logged")))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    (events,) = (tmp_path / "logged").iterdir()
    assert "memory/occupancy" in EventAccumulator(str(events)).Reload().Tags()["scalars"]


@pytest.mark.slow
def test_torchrun_trains_the_model_of_one_process(data: Path) -> None:
    without_dropout = command(data, "--policy-kwargs", "dropout:0.0")
    main([*without_dropout, "--no-progress"])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sb3_elmur.bc"]
    result = subprocess.run([*torchrun, *without_dropout], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for once in ("Using cpu device", "Run folder", "Saved"):
        assert result.stdout.count(once) == 1
    assert result.stderr.count("9/9") >= 1
    assert {path.name for path in run_folder(data).parent.iterdir()} == {f"{ENV}_1", f"{ENV}_2"}
    alone, together = weights(run_folder(data)), weights(run_folder(data, 2))
    for name, weight in alone.items():
        th.testing.assert_close(together[name], weight, rtol=0, atol=1e-4)
    failed = subprocess.run([*torchrun, *without_dropout, "--batch-size", "0"], capture_output=True, text=True)
    assert failed.returncode != 0
    assert "`batch_size`" in failed.stderr

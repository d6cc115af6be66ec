"""rl_zoo3 with this package in it: its commands, the settings of every environment, search, checks, and the hub."""

import argparse
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib import RecurrentPPO as HostRecurrentPPO
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import sb3_elmur
from helpers import DICT, RandomEnv, without_simulator
from sb3_elmur.cli import main
from sb3_elmur.command_line import SettingsError
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.zoo.checks import checked_policy_arguments
from sb3_elmur.zoo.commands import ALGORITHM, register
from sb3_elmur.zoo.search import convert_ppo_elmur_params, sample_ppo_elmur_params

pytest.importorskip("rl_zoo3", reason='rl_zoo3 is missing: pip install "sb3-elmur[zoo]"')
optuna = pytest.importorskip("optuna")

CONFIGS = files("sb3_elmur.zoo_configs")
SETTINGS = {algo: yaml.safe_load(CONFIGS.joinpath(f"{algo}.yml").read_text()) for algo in (ALGORITHM, "ppo_lstm")}
MAZE = "TMazePassive10-v0"
RUN = Path("logs", ALGORITHM, f"{MAZE}_1")
TINY = {"n_envs": 2, "n_steps": 8, "batch_size": 8, "n_epochs": 1}
SHORT = ["--env", MAZE, "-n", "32", "--seed", "0", "-params", *(f"{name}:{value}" for name, value in TINY.items())]
Command = Callable[..., str]


class FaultyPolicy(sb3_elmur.ElmurPolicy):
    """Fails in the middle of training."""

    def evaluate_actions(self, *arguments: Any) -> Any:
        raise ValueError("a fault of the policy")


class DivergedPolicy(sb3_elmur.ElmurPolicy):
    """Its weights are not finite."""

    def forward(self, *arguments: Any, **more: Any) -> Any:
        for parameter in self.parameters():
            parameter.data.fill_(float("nan"))
        return super().forward(*arguments, **more)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture) -> Command:
    """Runs ``sb3-elmur`` in an empty folder, without a screen, and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sb3-elmur", *arguments])
        main()
        return capfd.readouterr().out

    return run


def make_manager(env_id: str, tmp_path: Path, algo: str = ALGORITHM, **arguments: Any) -> Any:
    """The zoo's experiment manager as the commands use it, with the packaged settings, but small."""
    register()
    from rl_zoo3 import exp_manager

    arguments = {"n_timesteps": 16, "eval_freq": -1, "log_interval": -1, "verbose": 0, "hyperparams": dict(TINY)} | arguments
    config = str(CONFIGS.joinpath(f"{algo}.yml"))
    return exp_manager.ExperimentManager(argparse.Namespace(), algo, env_id, str(tmp_path), config=config, seed=0, **arguments)


def saved_model(number: int) -> sb3_elmur.RecurrentPPO:
    """The model of a run in the current folder."""
    return sb3_elmur.RecurrentPPO.load(RUN.with_name(f"{MAZE}_{number}") / f"{MAZE}.zip")


@pytest.mark.parametrize("env_id", [env_id for env_id in SETTINGS[ALGORITHM] if env_id != "default"])
@pytest.mark.parametrize("algo", SETTINGS)
def test_every_key_of_the_settings_trains(algo: str, env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    if env_id not in gymnasium.registry:
        pytest.skip(f"{env_id} is not registered")
    without_simulator(env_id, monkeypatch)
    manager = make_manager(env_id, tmp_path, algo)
    try:
        model, _ = manager.setup_experiment()
    except DependencyNotInstalled as error:
        pytest.skip(str(error))
    manager.learn(model)
    assert model.num_timesteps == 16


def test_a_native_batch_trains_as_single_environments_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, logged = [], []
    for native in (True, False):
        if not native:
            monkeypatch.setattr("sb3_elmur.zoo.manager.native_batch", lambda *arguments: None)
        manager = make_manager(MAZE, tmp_path, n_timesteps=64)
        model, _ = manager.setup_experiment()
        assert isinstance(model.env.unwrapped, TMazeVecEnv if native else DummyVecEnv)
        manager.learn(model)
        model.env.close()
        logged.append(sorted(load_results(manager.save_path)[["r", "l"]].itertuples(index=False, name=None)))
        weights.append(model.policy.state_dict())
    assert len(logged[0]) > 4
    np.testing.assert_allclose(logged[0], logged[1], atol=1e-5)
    assert all(th.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    "changes", [{"vec_env_type": "subproc"}, {"hyperparams": TINY | {"env_wrapper": "gymnasium.Wrapper"}}]
)
def test_processes_and_wrappers_take_single_environments(changes: dict[str, Any], tmp_path: Path) -> None:
    model, _ = make_manager(MAZE, tmp_path, **changes).setup_experiment()
    assert not isinstance(model.env.unwrapped, TMazeVecEnv)
    model.env.close()


def test_baseline_and_elmur_train_on_the_same_problems() -> None:
    names = ("n_timesteps", "env_kwargs")
    elmur, lstm = (
        {env_id: [values.get(name) for name in names] for env_id, values in SETTINGS[algo].items()} for algo in SETTINGS
    )
    assert elmur == lstm


def test_a_run_is_trained_watched_filmed_continued_and_plotted_from_any_folder(command: Command) -> None:
    evaluated = ["--eval-freq", "16", "--eval-episodes", "2"]
    command("train", *SHORT, *evaluated)
    assert {path.name for path in RUN.iterdir()} >= {f"{MAZE}.zip", MAZE, "0.monitor.csv", "evaluations.npz", "best_model.zip"}
    assert {path.name for path in (RUN / MAZE).iterdir()} >= {"args.yml", "config.yml", "command.txt"}

    assert "Mean reward" in command("enjoy", "--env", MAZE, "-n", "20")

    command("record-video", "--env", MAZE, "-n", "4")
    assert [path.suffix for path in (RUN / "videos").iterdir()] == [".mp4"]

    command("train", *SHORT, "learning_rate:0.0", "-i", str(RUN / f"{MAZE}.zip"), *evaluated)
    first, second = (saved_model(number).policy.state_dict() for number in (1, 2))
    assert all(th.equal(first[name], second[name]) for name in first)

    command("plot", "train", "-e", MAZE)
    command("plot", "all", "-e", MAZE, "--no-display", "-o", "results")
    command("plot", "from-file", "-i", "results", "--skip-timesteps", "-o", "plot")
    assert Path("results.pkl").exists()


def test_an_environment_without_a_window_is_watched_without(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sb3_elmur.envs.TMazeEnv.metadata, "render_modes", [])
    command("train", *SHORT, "--eval-freq", "-1")
    monkeypatch.setattr(sb3_elmur.envs.TMazeEnv, "render", lambda self: pytest.fail("rendered"))
    assert "Mean reward" in command("enjoy", "--env", MAZE, "-n", "20")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], str(CONFIGS.joinpath("ppo_elmur.yml"))),
        (["--algo", "ppo_lstm"], str(CONFIGS.joinpath("ppo_lstm.yml"))),
        (["--algo", "ppo_lstm", "--env", "Acrobot-v1"], "rl_zoo3/hyperparams/ppo_lstm.yml"),
    ],
)
def test_settings_are_ours_where_we_have_them_else_the_zoos(options: list[str], expected: str, command: Command) -> None:
    output = command("train", *SHORT, "--eval-freq", "-1", *options)
    (line,) = (line for line in output.splitlines() if line.startswith("Loading hyperparameters from:"))
    assert line.endswith(expected)


def test_the_stock_command_trains_the_policy(tmp_path: Path) -> None:
    options = [
        *SHORT,
        "--algo",
        "ppo_lstm",
        "--gym-packages",
        "sb3_elmur",
        "--conf-file",
        str(CONFIGS.joinpath("ppo_elmur.yml")),
    ]
    subprocess.run([sys.executable, "-m", "rl_zoo3.train", *options, "--eval-freq", "-1"], cwd=tmp_path, check=True)
    model = HostRecurrentPPO.load(tmp_path / "logs" / "ppo_lstm" / f"{MAZE}_1" / f"{MAZE}.zip")
    assert type(model.policy) is sb3_elmur.ElmurPolicy


def open_study(path: Path, **arguments: Any) -> Any:
    """A study in a file that several processes may share."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return optuna.create_study(storage=storage, study_name="maze", load_if_exists=True, **arguments)


@pytest.mark.slow
def test_two_processes_search_together(tmp_path: Path) -> None:
    options = ["--env", MAZE, "-n", "64", "--storage", "search.log", "--study-name", "maze", "--n-trials", "1"]
    options += ["--n-evaluations", "1", "--eval-episodes", "1", "--no-optim-plots", "-params", "n_envs:1"]
    command = [sys.executable, "-c", "from sb3_elmur.cli import main; main()", "tune", *options]
    processes = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    first, second = open_study(tmp_path / "search.log").trials
    assert first.state.name == second.state.name == "COMPLETE"
    assert first.params != second.params


@pytest.mark.parametrize("number", [0, 1])
def test_any_trial_is_retrained(number: int, command: Command) -> None:
    study = open_study(Path("search.log"), sampler=optuna.samplers.RandomSampler(seed=0))
    sampled = [sample_ppo_elmur_params(study.ask(), 1, 1, {}) for _ in range(2)]
    trial = ["--storage", "search.log", "--study-name", "maze", "--trial-id", str(number)]
    command("train", "--env", MAZE, "-n", "8", *trial, "-params", "n_envs:1", "n_steps:8", "n_epochs:1")
    model = saved_model(1)
    assert sampled[0] != sampled[1]
    assert model.policy_kwargs.items() >= sampled[number]["policy_kwargs"].items()
    assert (model.batch_size, model.bptt_segments) == (sampled[number]["batch_size"], sampled[number]["bptt_segments"])


@given(st.integers(0, 2**31))
def test_every_sample_is_a_valid_setting_and_is_restored_from_its_trial(seed: int) -> None:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    sampled = sample_ppo_elmur_params(trial, 1, 1, {})
    rate = sampled["learning_rate"]
    assert rate(0.0) == 0.0 < rate(1.0)
    assert convert_ppo_elmur_params(trial.params) == sampled | {"learning_rate": f"lin_{rate(1.0)}"}
    ElmurConfig(**sampled.pop("policy_kwargs"))
    sb3_elmur.RecurrentPPO("ElmurPolicy", "CartPole-v1", _init_setup_model=False, **sampled)


@pytest.mark.parametrize(
    ("policy", "error", "message"),
    [(FaultyPolicy, ValueError, "a fault of the policy"), (DivergedPolicy, optuna.TrialPruned, "^$")],
)
def test_a_search_prunes_divergence_but_shows_faults(
    policy: type, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sb3_elmur.RecurrentPPO.policy_aliases, "ElmurPolicy", policy)
    settings = TINY | {"policy": "ElmurPolicy"}
    manager = make_manager(MAZE, tmp_path, optimize_hyperparameters=True, hyperparams=settings, n_timesteps=1000)
    assert manager.setup_experiment() is None
    assert not Path(manager.save_path).exists()
    with pytest.raises(error, match=message):
        manager.objective(optuna.create_study().ask())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ent_coeff", 0.1, "Unknown hyper-parameter: 'ent_coeff'. Did you mean 'ent_coef'"),
        ("seed", 1, "Unknown hyper-parameter: 'seed'"),
        ("n_steps", "128", "`n_steps` must be int. Received '128'"),
        ("n_steps", True, "`n_steps` must be int. Received True"),
        ("ent_coef", "1e-3", "`ent_coef` must be float. Received '1e-3'. .* 1.0e-03"),
        ("learning_rate", "lin_fast", "`learning_rate` must be float, or 'lin_<number>'. Received 'lin_fast'"),
        ("learning_rate", "1e-3", "`learning_rate` must be float, .* 1.0e-03"),
        ("n_timesteps", "1e6", r"`n_timesteps` must be float. .* 1.0e\+06"),
        ("n_timesteps", float("inf"), "`n_timesteps` must be a number in .* Received inf"),
        ("n_timesteps", -5, "`n_timesteps` must be a number in .* Received -5"),
        ("learning_rate", "lin_-1", "`learning_rate` must be a number in .* Received -1"),
        ("gamma", 2.0, "`gamma` must be a number in .* Received 2.0"),
        ("batch_size", -5, "`batch_size` must be an integer of at least 1. Received -5"),
        ("n_epochs", 0, "`n_epochs` must be an integer of at least 1. Received 0"),
        ("stats_window_size", 0, "`stats_window_size` must be an integer of at least 1. Received 0"),
        ("n_steps", 10**19, "`n_steps` must be int. Received 1"),
        ("frame_stack", 0, "`frame_stack` must be an integer of at least 1. Received 0"),
        ("normalize", "dict(clip=1)", "Unknown argument of VecNormalize in `normalize`: 'clip'"),
        ("normalize", {"clip_obs": "much"}, "`clip_obs` of `normalize` must be float. Received 'much'"),
        ("normalize", {"epsilon": -1}, "`epsilon` must be a number in .* Received -1"),
        ("env_wrapper", [[]], "`env_wrapper` must be .* subclass of Wrapper"),
        ("n_envs", 10**12, "`n_envs` must be a number in"),
        ("policy_kwargs", {"n_layers": 10**12}, "`n_layers` must be a number in"),
        ("normalize", "__import__('os').system('exit 1')", "`normalize` must be a Python literal.* Received .__import__"),
        ("policy_kwargs", "print(1)", "`policy_kwargs` must be a Python literal.* Received 'print"),
        ("monitor_kwargs", "open('x')", "`monitor_kwargs` must be a Python literal.* Received .open"),
        ("monitor_kwargs", {"keywords": 1}, "Unknown argument of Monitor in `monitor_kwargs`: 'keywords'"),
        ("callback", True, "`callback` must be str .* Received True"),
        ("callback", "os.system", "`callback` must be the dotted path of a subclass of BaseCallback.* Received 'os.system'"),
        ("callback", {"subprocess.Popen": {"args": "true"}}, "`callback` must be .* Received {'subprocess.Popen'"),
        ("callback", [{"sb3_elmur.MemoryCallback": {"intervall": 3}}], "Unknown argument of MemoryCallback .* 'intervall'"),
        ("callback", [{"sb3_elmur.MemoryCallback": {"interval": 0}}], "`interval` must be an integer"),
        ("env_wrapper", "os.system", "`env_wrapper` must be .* subclass of Wrapper.* Received 'os.system'"),
        ("vec_env_wrapper", "gymnasium.Wrapper", "`vec_env_wrapper` must be .* subclass of VecEnvWrapper"),
        ("policy", "subprocess.Popen", "`policy` must be a name, or the dotted path of a policy class. Received"),
        ("policy_kwargs", {"d_model": 10**19}, "`d_model` must be int. Received 1"),
        ("n_envs", 0, "`n_envs` must be an integer of at least 1. Received 0"),
        ("policy", "sb3_elmur.ElmurPolice", "`policy` must be a name, or the dotted path of a policy class. Received"),
        ("policy", "absent.policies.ElmurPolicy", "`policy` must be a name, or the dotted path of a policy class. Received"),
        ("policy", "ElmurPolice", "Unknown policy: 'ElmurPolice'. Did you mean 'ElmurPolicy'"),
        (
            "policy_kwargs",
            {"d_modle": 8},
            "Unknown argument of ElmurPolicy in `policy_kwargs`: 'd_modle'.*d_model",
        ),
        ("policy_kwargs", {"d_model": "8"}, "`d_model` must be int. Received '8'"),
        (
            "policy_kwargs",
            {"activation_fn": "tanh"},
            "`activation_fn` must be the dotted path of a subclass of Module. Received 'tanh'.",
        ),
        ("policy_kwargs", {"activation_fn": 3}, "`activation_fn` must be type.* Received 3"),
        ("policy_kwargs", {"d_model": 30}, "`d_model` must be divisible by `n_heads`"),
        ("env_kwargs", {"reward": "much"}, "`reward` must be one of"),
    ],
)
def test_wrong_settings_are_refused_by_name(key: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_manager(MAZE, tmp_path, hyperparams=TINY | {key: value}).setup_experiment()


def test_classes_of_a_policy_are_named_by_their_dotted_paths(tmp_path: Path) -> None:
    policy_kwargs = {"d_model": 8, "activation_fn": "torch.nn.ELU", "net_arch": [4]}
    model, _ = make_manager(MAZE, tmp_path, hyperparams=TINY | {"policy_kwargs": policy_kwargs}).setup_experiment()
    assert any(isinstance(module, th.nn.ELU) for module in model.policy.mlp_extractor.modules())


def test_a_policy_may_hand_arguments_on_to_its_base_class() -> None:
    class Handing(sb3_elmur.ElmurPolicy):
        def __init__(self, *arguments: Any, extra: int = 0, **more: Any) -> None:
            super().__init__(*arguments, **more)

    checked_policy_arguments(sb3_elmur.RecurrentPPO, Handing, {"extra": 1, "d_model": 8})
    with pytest.raises(ValueError, match="`extra` must be int"):
        checked_policy_arguments(sb3_elmur.RecurrentPPO, Handing, {"extra": "1"})
    with pytest.raises(ValueError, match=r"Unknown argument of Handing in `policy_kwargs`: 'd_modle'. Did you mean 'd_model'"):
        checked_policy_arguments(sb3_elmur.RecurrentPPO, Handing, {"d_modle": 8})


class Choosing(sb3_elmur.ElmurPolicy):
    """A policy with an argument that has few values."""

    def __init__(self, *arguments: Any, mode: Literal["a", "b"] = "a", **more: Any) -> None:
        super().__init__(*arguments, **more)


def test_an_argument_of_few_values_takes_no_other() -> None:
    checked_policy_arguments(sb3_elmur.RecurrentPPO, Choosing, {"mode": "b"})
    with pytest.raises(ValueError, match=r"`mode` must be Literal\['a', 'b'\]. Received 'c'"):
        checked_policy_arguments(sb3_elmur.RecurrentPPO, Choosing, {"mode": "c"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", *SHORT, "gama:0.9"], "Unknown hyper-parameter: 'gama'. Did you mean 'gamma'?"),
        (["train", *SHORT, "policy_kwargs:dict(d_model=30)"], "`d_model` must be divisible by `n_heads` (4). Received 30."),
        (
            ["train", *SHORT, "--env-kwargs", "lenght:3"],
            f"Unknown argument of {MAZE} in `env_kwargs`: 'lenght'. Did you mean 'length'?",
        ),
        (["train", *SHORT, "n_epochs=8"], "`-params` must be KEY:VALUE. Received 'n_epochs=8'."),
        (["train", *SHORT, "--conf-file", "absent.yml"], "[Errno 2] No such file or directory: 'absent.yml'"),
        (
            ["train", "--env", "TMazePassiv10-v0"],
            "`--env` must be a registered id. Received 'TMazePassiv10-v0'. Is it TMazePassive10-v0?",
        ),
        (
            ["train", "--env", MAZE, "--storage", "absent.log", "--study-name", "maze", "--trial-id", "3"],
            "Study 'maze' of absent.log has no complete trial 3.",
        ),
        (["tune", *SHORT, "n_steps:'8'"], "`n_steps` must be int. Received '8'."),
        (["train", *SHORT, "--device", "nowhere"], "`--device` must be there. Received 'nowhere'"),
        (["enjoy", "--env", MAZE, "--device", "nowhere"], "`--device` must be there. Received 'nowhere'"),
        (["train", *SHORT, "--seed", "5000000000"], "`--seed` must be in [0, 4294967295]. Received 5000000000."),
        (["enjoy", "--env", MAZE, "--seed", "5000000000"], "`--seed` must be in [0, 4294967295]. Received 5000000000."),
        (["enjoy", "--env", MAZE, "--env-kwargs", "foo:1"], f"Unknown argument of {MAZE} in `env_kwargs`: 'foo'."),
        (["train", *SHORT, "clip_range:0"], "`clip_range` must be a number above 0. Received 0."),
        (["train", *SHORT, "--log-interval", "0"], "`--log-interval` must be at least 1, or -1. Received 0."),
        (["train", *SHORT, "--eval-episodes", "0"], "`--eval-episodes` must be at least 1. Received 0."),
        (["train", "--env", MAZE, "-n", "0"], "`--n-timesteps` must be at least 1, or -1. Received 0."),
        (["tune", *SHORT, "--n-trials", "0"], "`--n-trials` must be at least 1. Received 0."),
        (["train", *SHORT, "policy_kwargs:dict(net_arch=[0])"], "`net_arch` must be an integer of at least 1. Received 0."),
        (["enjoy", "--env", MAZE], "The logs/ppo_elmur folder was not found"),
        (["record-video", "--env", MAZE], "The logs/ppo_elmur folder was not found"),
        (["enjoy", "--env", "MyOwn-v0"], "`--env` must be a registered id. Received 'MyOwn-v0'."),
        (["record-video", "--env", "MyOwn-v0"], "`--env` must be a registered id. Received 'MyOwn-v0'."),
        (["train", "--env", MAZE, "--gym-packages", "absent"], "`--gym-packages` must name packages that can be imported."),
        (["train", *SHORT, "n_epochs:1", "-i", "absent.zip"], "`--trained-agent` must be the .zip file of a model."),
        (["train", *SHORT, "n_epochs:1", "-f", "/dev/null/logs"], "[Errno 20] Not a directory: '/dev/null/logs/ppo_elmur'"),
        (["train", *SHORT, "n_epochs:1", "-tb", "/dev/null/tb"], "[Errno 20] Not a directory: '/dev/null/tb/"),
        (["tune", *SHORT, "-f", "/dev/null/logs"], "[Errno 20] Not a directory: '/dev/null/logs/ppo_elmur'"),
        (["tune", *SHORT, "-tb", "/dev/null/tb"], "[Errno 20] Not a directory: '/dev/null/tb/"),
        (["tune", *SHORT, "--optimization-log-path", "/dev/null/best"], "[Errno 20] Not a directory: '/dev/null/best'"),
        (["plot", "train", "-e", MAZE], "[Errno 2] No such file or directory: 'logs/ppo_elmur'"),
        (["plot", "from-file", "-i", "absent.pkl"], "[Errno 2] No such file or directory: 'absent.pkl'"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_no_run_folder(
    arguments: list[str], message: str, command: Command, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(*arguments)
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error: "))
    assert message in line
    assert not Path("logs").exists()


def test_what_an_algorithm_refuses_is_told_too(command: Command, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("train", *SHORT, "bptt_segments:0")
    assert "error: `bptt_segments` must be an integer" in capfd.readouterr().err


def test_keys_to_normalise_that_observations_lack_are_told_too(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    spec = gymnasium.envs.registration.EnvSpec("Parts-v0", lambda **_: RandomEnv(DICT, spaces.Discrete(2)))
    monkeypatch.setitem(gymnasium.registry, "Parts-v0", spec)
    normalize = "normalize:{'norm_obs_keys': ['vectro']}"
    with pytest.raises(SystemExit, match="2"):
        command("train", "--env", "Parts-v0", *SHORT[2:], "policy:ElmurMultiInputPolicy", normalize)
    assert "'vectro'. Did you mean 'vector'?" in capfd.readouterr().err


def test_a_model_that_is_too_large_is_told_too(command: Command, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("train", *SHORT, "policy_kwargs:dict(d_model=2**40)")
    assert "more memory than there is" in capfd.readouterr().err
    assert not RUN.exists()


def test_what_an_environment_refuses_is_told_too_and_the_latest_run_stays_that(
    command: Command, capfd: pytest.CaptureFixture
) -> None:
    command("train", *SHORT, "--eval-freq", "-1")
    with pytest.raises(SystemExit, match="2"):
        command("train", *SHORT, "--env-kwargs", "reward:'much'")
    assert "error: `reward` must be one of" in capfd.readouterr().err
    assert "Mean reward" in command("enjoy", "--env", MAZE, "-n", "20", "--no-render")


def test_faults_keep_their_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sb3_elmur.RecurrentPPO.policy_aliases, "ElmurPolicy", FaultyPolicy)
    with pytest.raises(ValueError, match="a fault of the policy"):
        command("train", *SHORT, "policy:'ElmurPolicy'", "--eval-freq", "-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", r"made.yml must map names to values. Received \['a'\]"),
        (f"{MAZE}:", rf"`{MAZE}` of .*made.yml .*None"),
        ("a: [", "made.yml is not YAML: while parsing .*line 1, column 5"),
        ("a: {}", f"made.yml has no settings for {MAZE}: give it the key"),
        (f"{MAZE}: {{n_envs: 1, n_envs: 2}}", "made.yml is not YAML: `n_envs` stands twice"),
    ],
)
def test_a_file_that_is_no_settings_is_refused(text: str, message: str, tmp_path: Path) -> None:
    register()
    from rl_zoo3 import exp_manager

    (tmp_path / "made.yml").write_text(text)
    manager = exp_manager.ExperimentManager(
        argparse.Namespace(), ALGORITHM, MAZE, str(tmp_path), config=str(tmp_path / "made.yml")
    )
    with pytest.raises(SettingsError, match=message):
        manager.setup_experiment()


def test_the_baseline_refuses_what_only_our_class_takes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown hyper-parameter: 'bptt_segments'"):
        make_manager(MAZE, tmp_path, "ppo_lstm", hyperparams=TINY | {"bptt_segments": 2}).setup_experiment()


@pytest.mark.parametrize("module", ["rl_zoo3.exp_manager", "requests"])
def test_without_the_extra_the_command_says_what_to_install(
    module: str, command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match="2"):
        command("train", *SHORT)
    assert 'is missing: run `pip install "sb3-elmur[zoo]"`.' in capfd.readouterr().err


def test_an_agent_is_pushed_with_a_card_of_commands_that_know_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: dict[str, str] = {}

    class OfflineHub:
        def create_repo(self, **arguments: Any) -> str:
            return "offline"

        def snapshot_download(self, repo_id: str, local_dir: Path) -> None:
            local_dir.mkdir(parents=True)

        def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
            uploaded["id"], uploaded["card"] = repo_id, (folder_path / "README.md").read_text()
            assert (folder_path / f"{ALGORITHM}-{MAZE}.zip").exists()

    monkeypatch.setattr("huggingface_hub.HfApi", OfflineHub)
    command("train", *SHORT, "--eval-freq", "-1")
    command("push-to-hub", "--env", MAZE, "-orga", "someone", "--no-render")
    assert uploaded["id"] == f"someone/{ALGORITHM}-{MAZE}"
    front_matter, text = uploaded["card"].split("---\n")[1:]
    assert yaml.safe_load(front_matter)["library_name"] == "stable-baselines3"
    assert f"sb3-elmur load-from-hub --algo {ALGORITHM} --env {MAZE}" in text
    assert "in a clone of sb3-elmur" in text
    assert "python -m" not in text


OWN = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
gymnasium.register("Own-v0", CartPoleEnv, max_episode_steps=20)
"""


def test_an_environment_of_ones_own_is_trained_by_default_watched_and_filmed(command: Command) -> None:
    Path("own_envs.py").write_text(OWN)
    own = ["--env", "Own-v0", "--gym-packages", "own_envs"]
    tiny = [f"{name}:{value}" for name, value in TINY.items()]
    try:
        assert "those of `default` are taken" in command("train", *own, "-n", "16", "--eval-freq", "-1", "-params", *tiny)
        assert "Mean reward" in command("enjoy", *own, "-n", "30", "--no-render")
        command("record-video", *own, "-n", "4")
        assert list(Path("logs", ALGORITHM, "Own-v0_1", "videos").glob("*.mp4"))
    finally:
        gymnasium.registry.pop("Own-v0", None)
        sys.modules.pop("own_envs", None)


def test_runs_that_start_at_the_same_instant_have_folders_of_their_own(tmp_path: Path) -> None:
    managers = [make_manager(MAZE, tmp_path) for _ in range(3)]
    assert len({manager.save_path for manager in managers}) == 1
    for manager in managers:
        manager.setup_experiment()
    assert len({manager.save_path for manager in managers}) == 3


def test_a_search_keeps_the_arguments_of_the_policy_that_it_does_not_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"d_model": 16, "net_arch": [4], "activation_fn": "torch.nn.ELU"}
    settings = TINY | {"policy_kwargs": own}
    manager = make_manager(MAZE, tmp_path, optimize_hyperparameters=True, hyperparams=settings)
    assert manager.setup_experiment() is None
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(sb3_elmur.RecurrentPPO, "learn", lambda model, *_, **__: arguments.update(model.policy_kwargs))
    manager.objective(trial)
    assert (arguments["net_arch"], arguments["activation_fn"]) == ([4], th.nn.ELU)
    assert set(arguments) > {"segment_length", "memory_size", "blend"}
    assert arguments["d_model"] in (32, 64, 128)


def test_processes_that_are_to_search_together_are_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="2"):
        command("tune", *SHORT)
    assert "torchrun" in capfd.readouterr().err


NORMALIZED = [*SHORT, "normalize:True", "env_kwargs:{}"]


def test_every_saved_model_has_its_own_statistics_and_is_watched_with_them(command: Command) -> None:
    command("train", *NORMALIZED, "--eval-freq", "8", "--eval-episodes", "1", "--save-freq", "16")
    counts = {}
    for model in RUN.glob("*.zip"):
        with (model.with_suffix("") / "vecnormalize.pkl").open("rb") as file:
            counts[model.stem] = round(pickle.load(file).obs_rms.count)
    assert counts.keys() == {MAZE, "best_model", "rl_model_16_steps", "rl_model_32_steps"}
    assert counts["rl_model_16_steps"] < counts["rl_model_32_steps"] == counts[MAZE]
    assert "Mean reward" in command("enjoy", "--env", MAZE, "-n", "20", "--no-render", "--load-checkpoint", "16")


@pytest.mark.parametrize("model", ["best_model.zip", "rl_model_16_steps.zip"])
def test_a_model_that_lost_its_statistics_is_not_continued_with_others(
    model: str, command: Command, capfd: pytest.CaptureFixture
) -> None:
    command("train", *NORMALIZED, "--eval-freq", "8", "--eval-episodes", "1", "--save-freq", "16")
    shutil.rmtree(RUN / Path(model).stem)
    (RUN / f"{MAZE}.zip").unlink()  # as if killed
    shutil.rmtree(RUN / MAZE)
    with pytest.raises(SystemExit, match="2"):
        command("train", *NORMALIZED, "-i", str(RUN / model))
    assert "no statistics of" in capfd.readouterr().err


def test_a_run_with_an_optimiser_of_pytorch_is_watched(command: Command) -> None:
    command("train", *SHORT, "policy_kwargs:dict(optimizer_class=th.optim.AdamW)", "--eval-freq", "-1")
    assert "Mean reward" in command("enjoy", "--env", MAZE, "-n", "20", "--no-render")


def test_a_model_without_statistics_goes_on_where_rewards_alone_are_normalised(command: Command) -> None:
    """Such as a clone: new statistics of rewards change nothing of what it sees."""
    command("train", *SHORT)
    command("train", *SHORT, "normalize:dict(norm_obs=False, norm_reward=True)", "-i", str(RUN / f"{MAZE}.zip"))
    assert (RUN.with_name(f"{MAZE}_2") / MAZE / "vecnormalize.pkl").exists()


@pytest.mark.parametrize("norm_reward", [False, True])
def test_a_clone_goes_on_with_its_observations_and_the_settings_rewards(norm_reward: bool, command: Command) -> None:
    command("train", *SHORT, "normalize:dict(norm_reward=False)")
    clone = RUN / f"{MAZE}.zip"
    path = clone.with_suffix("") / "vecnormalize.pkl"
    statistics = VecNormalize.load(str(path), make_batch(MAZE, 1))
    statistics.training = False  # as cloning leaves it
    statistics.save(str(path))
    command("train", *SHORT, f"normalize:dict(norm_reward={norm_reward}, clip_reward=3.0)", "-i", str(clone))
    after = VecNormalize.load(str(RUN.with_name(f"{MAZE}_2") / MAZE / "vecnormalize.pkl"), make_batch(MAZE, 1))
    assert (after.norm_reward, after.training, after.clip_reward) == (norm_reward, norm_reward, 3.0)
    assert (after.obs_rms.count > statistics.obs_rms.count) == norm_reward


def test_trials_at_the_same_time_have_environments_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = make_manager(MAZE, tmp_path, env_kwargs={"length": 10}, eval_env_kwargs={"length": 30})
    manager.setup_experiment()
    zoos_manager = type(manager).__mro__[1]
    create = zoos_manager.create_envs

    def create_slowly(*arguments: Any) -> VecEnv:
        time.sleep(0.1)
        return create(*arguments)

    monkeypatch.setattr(zoos_manager, "create_envs", create_slowly)
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(manager.create_envs, 1, eval_env=eval_env) for eval_env in (False, True)]
    assert [env.result().get_attr("config")[0].length for env in made] == [10, 30]


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch marker']",
        "{normalize: \"__import__('os').system('touch marker')\"}",
        "{callback: os.system}",
        "{env_wrapper: {subprocess.Popen: {args: [touch, marker]}}}",
        "!!python/name:os.system ''",
        "[",
        "3",
    ],
)
@pytest.mark.parametrize("name", ["enjoy", "record-video"])
def test_a_run_folder_from_elsewhere_runs_nothing(
    name: str, text: str, command: Command, capfd: pytest.CaptureFixture
) -> None:
    folder = RUN / MAZE
    folder.mkdir(parents=True)
    RUN.joinpath(f"{MAZE}.zip").write_bytes(b"")
    folder.joinpath("config.yml").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        command(name, "--env", MAZE, "-n", "2")
    assert "config.yml is not what a run writes" in capfd.readouterr().err
    assert not Path("marker").exists()


def test_without_a_display_a_plot_becomes_a_file(command: Command) -> None:
    command("train", *SHORT, "--eval-freq", "-1")
    assert "plot_train_1.png" in command("plot", "train", "-e", MAZE)
    assert Path("plot_train_1.png").read_bytes()[1:4] == b"PNG"

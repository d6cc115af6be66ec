"""The command `evaluate`: what it records, and how it goes on."""

import json
import runpy
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from corridor_helpers import prefer_right, stepped
from helpers import make_model
from sb3_elmur import RecurrentPPO
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.evaluation import Corridors, wilson_interval
from sb3_elmur.evaluation import command as evaluation_command
from sb3_elmur.evaluation import record as evaluation_record
from sb3_elmur.evaluation.command import main


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of saved models: of the T-Maze, of another one, of CartPole, of other classes, and none at all."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("tmaze", 7), ("other", 8)):
        model = make_model(RecurrentPPO, TMazeVecEnv(2, seed=0), seed=seed, policy_kwargs={"segment_length": 3})
        prefer_right(model.policy, 10.0)
        model.save(folder / name)
    make_model(RecurrentPPO, make_vec_env("CartPole-v1", 2)).save(folder / "cartpole")
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(folder / "ppo")
    sb3_contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(folder / "lstm")
    (folder / "text.zip").write_text("no zip file")
    (folder / "cut.zip").write_bytes((folder / "tmaze.zip").read_bytes()[:3000])
    with zipfile.ZipFile(folder / "foreign.zip", "w") as file:
        file.writestr("readme.txt", "no model")
    return folder


@pytest.fixture
def run(models: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the command with arguments, and return its record."""

    def run(*arguments: str, model: str = "tmaze", folder: str = "") -> dict[str, Any]:
        output = tmp_path / folder / "record.json"
        main([str(models / f"{model}.zip"), "-o", str(output), "--no-progress", "--device", "cpu", *arguments])
        return json.loads(output.read_text())

    return run


@pytest.fixture
def refusal(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command, and return the line that it says as it exits with an error."""

    def refusal(*arguments: str, **others: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            run(*arguments, **others)
        assert exit_.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return refusal


class KilledError(Exception):
    """Stands for the end of the process."""


@contextmanager
def killed_after(n_calls: int, owner: Any, name: str) -> Iterator[None]:
    """What runs inside is killed at the next call of a function after so many."""
    function, calls = getattr(owner, name), iter(range(n_calls))

    def call(*arguments: Any) -> Any:
        if next(calls, None) is None:
            raise KilledError
        return function(*arguments)

    with mock.patch.object(owner, name, call), pytest.raises(KilledError):
        yield


MAZE = ("--env", "TMazePassive-v0")
LENGTHS = ("--lengths", "40", "3", "10", "--episodes", "8")


def test_corridors_of_several_lengths_are_recorded(
    run: Callable[..., dict[str, Any]], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    record = run(*LENGTHS, "--seed", "2")
    policy = RecurrentPPO.load(models / "tmaze", device="cpu").policy
    assert list(record["results"]) == ["3", "10", "40"]
    for length, result in record["results"].items():
        successes = stepped(policy, int(length), 8, seed=2)
        low, high = wilson_interval(np.mean(successes), 8)
        assert result == {"n": 8, "is_success": np.mean(successes), "is_success_95%": [round(low, 4), round(high, 4)]}
    assert record["steps"] == 8 * 39  # thirteen segments
    assert record["steps_per_second"] == pytest.approx(record["steps"] / record["seconds"], abs=0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["length", "success", "95%", "interval"]
    assert len({len(line) for line in printed[1:4]}) == 1
    assert printed[4].startswith("8 episodes of each length, ")


def test_folder_of_the_record_is_made(run: Callable[..., dict[str, Any]]) -> None:
    assert run("--lengths", "3", folder="new/folder")["results"] == run("--lengths", "3")["results"]


def test_record_needs_no_output(models: Path, capsys: pytest.CaptureFixture) -> None:
    main([str(models / "tmaze.zip"), "--lengths", "1002", "--episodes", "1"])
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].startswith("       1,002       0.000    0.000 - 0.79")
    assert "1.00k/1.00k" in printed.err


def test_several_models_have_records_of_their_own_and_a_mean(
    run: Callable[..., dict[str, Any]], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    left = make_model(RecurrentPPO, TMazeVecEnv(2, seed=0), seed=7, policy_kwargs={"segment_length": 3})
    left.save(tmp_path / "left")
    paths, options = [models / "tmaze", tmp_path / "left", models / "other"], (*LENGTHS, "--no-progress", "--device", "cpu")
    alone = [run(*LENGTHS, model=str(path), folder=path.name)["results"] for path in paths]
    capsys.readouterr()
    for _ in range(2):  # the second time all is there
        main([*(f"{path}.zip" for path in paths), *options, "-o", str(tmp_path / "several")])
        records = [json.loads((tmp_path / "several" / f"{index}.json").read_text()) for index in range(3)]
        assert [record["results"] for record in records] == alone
        printed = capsys.readouterr().out.splitlines()
        assert [Path(line).stem for line in printed if line.endswith(".zip")] == [path.name for path in paths]
        assert printed[-4].split() == ["mean", "standard", "error", "over", "3", "models"]
        for line, length in zip(printed[-3:], ("3", "10", "40"), strict=True):
            successes = [results[length]["is_success"] for results in alone]
            label, mean, error = line.split()
            assert label == length
            assert float(mean) == pytest.approx(np.mean(successes), abs=5e-4)
            assert float(error) == pytest.approx(np.std(successes, ddof=1) / 3**0.5, abs=5e-4)
    assert len({results["40"]["is_success"] for results in alone}) > 1


@pytest.mark.parametrize("n_segments", [0, 1, 5])
def test_killed_evaluation_of_corridors_is_continued(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_segments: int
) -> None:
    whole = run(*LENGTHS)
    (tmp_path / "record.json").unlink()
    monkeypatch.setattr(evaluation_record, "SECONDS_BETWEEN_RECORDS", -1.0)
    with killed_after(n_segments, Corridors, "advance"):
        run(*LENGTHS)
    assert (tmp_path / "record.json.walk.npz").exists() == (n_segments > 0)
    continued = run(*LENGTHS)
    for name in ("settings", "steps", "results"):
        assert continued[name] == whole[name]
    assert not (tmp_path / "record.json.walk.npz").exists()


def test_killed_evaluation_of_episodes_is_continued(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    arguments = ("--env", "CartPole-v1", "--episodes", "7", "--n-envs", "3")
    whole = run(*arguments, model="cartpole")
    (tmp_path / "record.json").unlink()
    with killed_after(2, evaluation_command, "run_episodes"):
        run(*arguments, model="cartpole")
    continued = run(*arguments, model="cartpole")
    for name in ("settings", "steps", "results", "episodes"):
        assert continued[name] == whole[name]
    assert whole["results"]["episodes"]["n"] == len(whole["episodes"]) == 7
    assert whole["steps"] == sum(episode["length"] for episode in whole["episodes"])


@pytest.mark.parametrize(
    ("model", "arguments"), [("tmaze", LENGTHS), ("cartpole", ("--env", "CartPole-v1", "--episodes", "2"))]
)
def test_finished_record_is_only_printed(
    run: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    model: str,
    arguments: tuple[str, ...],
) -> None:
    record = run(*arguments, model=model)
    printed = capsys.readouterr().out
    for name in ("Corridors", "run_episodes"):
        monkeypatch.setattr(evaluation_command, name, None)
    assert run(*arguments, model=model) == record
    assert capsys.readouterr().out == printed


def test_turns_of_endless_corridors_are_counted(run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture) -> None:
    record = run("--env", "TMazeEndless-v0", "--env-kwargs", "n_corridors:10", "length:5", "--episodes", "6")
    result = record["results"]["episodes"]
    assert record["settings"]["env_kwargs"] == {"n_corridors": 10, "length": 5}
    assert result["turn_success"] == pytest.approx(np.mean([episode["turn_success"] for episode in record["episodes"]]))
    assert result["return"] == pytest.approx(10 * result["turn_success"])
    low, high = result["turn_success_95%"]
    assert low <= result["turn_success"] <= high
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "mean", "return", "length", "is_success", "turn_success", "6"
    ]  # fmt: skip


def test_stepping_corridors_gives_what_crossing_them_gives(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    crossed = run("--lengths", "8", "--episodes", "9")["results"]["8"]
    (tmp_path / "record.json").unlink()
    episodes = run("--env", "TMazePassive-v0", "--env-kwargs", "length:8", "--episodes", "9", "--n-envs", "4")["results"][
        "episodes"
    ]
    assert crossed.items() <= episodes.items()


@pytest.mark.parametrize(
    ("model", "arguments", "setting"),
    [
        ("tmaze", (*LENGTHS, "--seed", "1"), "seed"),
        ("tmaze", (*LENGTHS, "--episodes", "9"), "n_episodes"),
        ("tmaze", ("--lengths", "10", "--episodes", "8"), "lengths"),
        ("tmaze", ("--env", "TMazeEndless-v0", "--episodes", "8"), "env, lengths"),
        ("tmaze", ("--env", "TMazePassive-v0", "--env-kwargs", "length:5", "--episodes", "8"), "env, env_kwargs, lengths"),
        ("other", LENGTHS, "model_sha256"),
    ],
)
def test_record_of_another_evaluation_is_refused(
    run: Callable[..., dict[str, Any]],
    refusal: Callable[..., str],
    tmp_path: Path,
    model: str,
    arguments: tuple[str, ...],
    setting: str,
) -> None:
    before = run(*LENGTHS)
    message = refusal(*arguments, model=model)
    assert message.startswith(f"error: {tmp_path / 'record.json'} ")
    assert f" {setting}." in message
    assert json.loads((tmp_path / "record.json").read_text()) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"settings": {}}', b'{"results": {}, "seconds": 1}'])
def test_file_that_is_no_record_is_refused(refusal: Callable[..., str], tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    assert refusal(*LENGTHS).startswith(f"error: {path} ")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("settings", []),
        ("steps", 1.5),
        ("steps", -1),
        ("seconds", None),
        ("seconds", float("nan")),
        ("results", {"3": None}),
        ("results", {"three": {"n": 8, "is_success": 0.5}}),
        ("results", {"3": {"n": 8}}),
        ("results", {"3": {"n": 8, "is_success": True}}),
        ("results", {"3": {"n": 8, "is_success": 0.5, "is_success_95%": [0.1]}}),
        ("episodes", {}),
        ("episodes", [1]),
        ("episodes", [{"return": 1.0}]),
        ("episodes", [{"return": 1.0, "length": "9"}]),
        ("steps", 10**400),
    ],
)
def test_record_with_a_damaged_part_is_refused(
    run: Callable[..., dict[str, Any]], refusal: Callable[..., str], tmp_path: Path, part: str, value: object
) -> None:
    record = run(*LENGTHS) | {part: value}
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert refusal(*LENGTHS).startswith(f"error: {tmp_path / 'record.json'} ")


def test_file_that_is_no_walk_is_refused(
    run: Callable[..., Any], refusal: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_record, "SECONDS_BETWEEN_RECORDS", -1.0)
    with killed_after(4, Corridors, "advance"):
        run(*LENGTHS)
    path = tmp_path / "record.json.walk.npz"
    walk = path.read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "arrays.npz", late=np.zeros(8), settings=json.dumps({}))
    arrays = [(tmp_path / name).read_bytes() for name in ("array.npy", "arrays.npz")]
    for content in (b"", b"text", walk[: len(walk) // 2], walk.replace(b"settings", b"nonsense"), *arrays):
        path.write_bytes(content)
        assert refusal(*LENGTHS).startswith(f"error: {path} does not hold corridors")
        assert path.read_bytes() == content
    path.write_bytes(walk)
    (tmp_path / "record.json").unlink()
    assert refusal(*LENGTHS, "--seed", "5").startswith(f"error: {path} ")


@pytest.mark.parametrize("model", ["ppo", "text", "cut", "foreign"])
def test_file_that_is_no_model_is_refused(refusal: Callable[..., str], models: Path, model: str) -> None:
    message = refusal(*LENGTHS, model=model)
    assert message.startswith(f"error: {models / model}.zip is not a model")


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("missing", (*MAZE,), "missing.zip"),
        ("cartpole", ("--lengths", "10"), "`--env` are for others. Observation spaces do not match"),
        ("cartpole", (*MAZE,), "spaces do not match"),
        ("lstm", ("--lengths", "10"), "RecurrentActorCriticPolicy"),
        ("tmaze", (), "`--env`"),
        ("tmaze", ("--lengths", "2"), "Received 2."),
        ("tmaze", ("--lengths", "5", "5"), "Received [5, 5]."),
        ("tmaze", ("--lengths", "5", "--env", "CartPole-v1"), "`--lengths`"),
        ("tmaze", ("--lengths", "5", "--env", "TMazeActive-v0"), "`--lengths`"),
        ("tmaze", ("--lengths", "5", "--env-kwargs", "length:5"), "`--lengths`"),
        ("tmaze", ("--lengths", "5", "--n-envs", "5"), "`--lengths`"),
        ("tmaze", ("--lengths", "5", "--stochastic"), "`--lengths`"),
        ("tmaze", ("--lengths", "5", "--episodes", "0"), "Received 0."),
        ("tmaze", (*MAZE, "--episodes", "0"), "Received 0."),
        ("tmaze", (*MAZE, "--n-envs", "0"), "Received 0."),
        ("tmaze", (*MAZE, "--seed", "-1"), "`--seed` must be in [0, 4294967295]. Received -1."),
        ("tmaze", ("--env", "Nowhere-v0"), "Nowhere"),
        ("tmaze", (*MAZE, "--env-kwargs", "width:5"), "'width'"),
        ("tmaze", (*MAZE, "--env-kwargs", "length:1"), "Received 1."),
        ("tmaze", (*MAZE, "--env-kwargs", "length:{1}"), "not JSON serializable"),
        ("tmaze", (*MAZE, "--gym-packages", "nowhere"), "'nowhere'"),
    ],
)
def test_errors_are_told_in_one_line(
    refusal: Callable[..., str], tmp_path: Path, model: str, arguments: tuple[str, ...], message: str
) -> None:
    line = refusal(*arguments, model=model)
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


class Bright(gymnasium.Env):
    """Shows images whose upper half is bright or dark; the right action says which."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    observation_space, action_space = spaces.Box(0, 255, (36, 40, 3), np.uint8), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.bright = int(self.np_random.integers(2))
        image = np.zeros((36, 40, 3), np.uint8)
        image[:18] = 255 * self.bright
        return image, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        right = float(action == self.bright)
        return self.reset()[0], right, True, False, {}


class UpperHalf(BaseFeaturesExtractor):
    """How bright the upper half is of an image with its channels first."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, 1)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        assert observations.shape[1:] == (3, 36, 40)
        return observations[:, :, :18].mean((1, 2, 3))[:, None]


def test_images_are_transposed_as_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gymnasium.registry, "Bright-v0", gymnasium.envs.registration.EnvSpec("Bright-v0", Bright))
    policy_kwargs = {"features_extractor_class": UpperHalf, "separate_critic": False}
    model = make_model(RecurrentPPO, make_vec_env("Bright-v0"), "ElmurCnnPolicy", policy_kwargs=policy_kwargs)
    model.save(tmp_path / "model")
    main([str(tmp_path / "model.zip"), "--env", "Bright-v0", "--episodes", "9", "-o", str(tmp_path / "record")])
    episodes = json.loads((tmp_path / "record").read_text())["episodes"]
    for seed, episode in enumerate(episodes):
        env = Bright()
        image, _ = env.reset(seed=seed)
        action, _ = model.predict(image, deterministic=True)
        assert episode["return"] == float(action == env.bright)


def test_a_model_of_the_host_is_evaluated_as_its_predict_says(run: Callable[..., dict[str, Any]], models: Path) -> None:
    record = run("--env", "CartPole-v1", "--episodes", "4", "--n-envs", "4", model="lstm")
    env = make_vec_env("CartPole-v1", 4)
    env.seed(0)
    model = sb3_contrib.RecurrentPPO.load(models / "lstm", device="cpu")
    returns, _ = evaluate_policy(model, env, n_eval_episodes=4, return_episode_rewards=True, warn=False)
    assert sorted(episode["return"] for episode in record["episodes"]) == sorted(returns)


def test_actions_are_drawn_if_asked_for(run: Callable[..., dict[str, Any]], refusal: Callable[..., str]) -> None:
    arguments = (*MAZE, "--env-kwargs", "length:12", "--episodes", "7", "--n-envs", "3")
    drawn = [run(*arguments, "--stochastic", folder=folder)["episodes"] for folder in ("one", "two")]
    assert drawn[0] == drawn[1] != run(*arguments)["episodes"]
    assert "stochastic" in refusal(*arguments, "--stochastic")
    assert "stochastic" in refusal(*arguments, folder="one")


def test_default_batches_lose_a_part_at_most_if_killed(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    arguments = ("--env", "CartPole-v1", "--episodes", "10")
    with killed_after(3, evaluation_command, "run_episodes"):
        run(*arguments, model="cartpole")
    assert len(json.loads((tmp_path / "record.json").read_text())["episodes"]) == 6
    assert len(run(*arguments, model="cartpole")["episodes"]) == 10


def test_steps_are_counted_once_if_killed_between_record_and_walk(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = run(*LENGTHS, folder="whole")["steps"]
    monkeypatch.setattr(evaluation_record, "SECONDS_BETWEEN_RECORDS", -1.0)
    for name in ("save_walk", "save"):
        with killed_after(2, evaluation_command if name == "save_walk" else evaluation_record.Record, name):
            run(*LENGTHS, folder=name)
        assert run(*LENGTHS, folder=name)["steps"] == steps


def test_module_is_a_command(models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluation", str(models / "tmaze.zip"), "--lengths", "2"])
    monkeypatch.delitem(sys.modules, "sb3_elmur.evaluation")
    with pytest.raises(SystemExit):
        runpy.run_module("sb3_elmur.evaluation", run_name="__main__")
    assert "Received 2." in capsys.readouterr().err

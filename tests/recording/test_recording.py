"""Recording: what is read back is what was played, whatever interrupts it."""

import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from stable_baselines3 import PPO

from helpers import ACTION_SPACES, VECTOR, RandomEnv, make_model
from sb3_elmur import RecurrentPPO
from sb3_elmur.datasets.episodes import DataError, Episode, NpzEpisodes, open_episodes
from sb3_elmur.extras import require
from sb3_elmur.recording import record
from sb3_elmur.recording.command import main
from sb3_elmur.recording.record import as_json
from sb3_elmur.recording.writers import FAILED, SETTINGS

TMAZE = "TMazePassive30-v0"
CORRIDORS = {"corridor_length": (1, 28)}
IMAGE = spaces.Box(0, 255, (36, 36, 3), dtype=np.uint8)
CAMERA = spaces.Dict({"image": IMAGE, "vector": VECTOR, "task": spaces.Discrete(3), "file": spaces.MultiBinary(2)})


def read(folder: Path, env: gymnasium.Env) -> list[Episode]:
    return list(open_episodes(folder, env.observation_space, env.action_space))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != SETTINGS}


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"observation": value}


def assert_replays(env: gymnasium.Env, episodes: list[Episode], seed: int) -> None:
    """Demand that the recorded actions lead through the recorded observations and rewards to an end."""
    for index, episode in enumerate(episodes):
        observation, _ = env.reset(seed=seed + index)
        for step in range(len(episode)):
            for key, value in as_dict(observation).items():
                np.testing.assert_array_equal(as_dict(episode.observations)[key][step], value)
            observation, reward, terminated, truncated, _ = env.step(episode.actions[step])
            assert np.float32(reward) == episode.rewards[step]
            assert (terminated or truncated) == (step == len(episode) - 1)


@pytest.fixture
def minari_format() -> str:
    pytest.importorskip("minari", reason="Minari is not installed")
    return "minari"


def minari_keeps_images() -> bool:
    return "jpeg_encoding" in inspect.signature(require("minari", "minari").create_dataset_from_buffers).parameters


@pytest.fixture(params=["npz", "minari"])
def format(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("minari_format") if request.param == "minari" else request.param


# What is recorded


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [(VECTOR, space) for space in ACTION_SPACES]
    + [
        (space, ACTION_SPACES[0])
        for space in (spaces.Discrete(4), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3), CAMERA)
    ],
    ids=str,
)
def test_reading_gives_what_was_played(
    observation_space: spaces.Space, action_space: spaces.Space, format: str, tmp_path: Path
) -> None:
    def make() -> RandomEnv:
        return RandomEnv(observation_space, action_space)

    if observation_space is CAMERA and format == "minari" and not minari_keeps_images():
        pytest.skip(f"Minari {version('minari')} encodes images as JPEG: they are refused")
    record(make, "random", tmp_path / "random-v0", n_episodes=5, seed=7, format=format)
    episodes = read(tmp_path / "random-v0", make())
    assert len(episodes) == 5
    assert len({len(episode) for episode in episodes}) > 1
    assert_replays(make(), episodes, seed=7)
    assert len(np.unique(np.concatenate([episode.actions for episode in episodes]), axis=0)) > 1


def test_the_oracle_of_the_tmaze_gives_the_papers_data(tmp_path: Path) -> None:
    record(TMAZE, "oracle", tmp_path, n_episodes=120, env_kwargs=CORRIDORS | {"reward": "eased"})
    env = gymnasium.make(TMAZE, **CORRIDORS, reward="eased")
    episodes = read(tmp_path, env)
    assert_replays(env, episodes[:20], seed=0)
    corridors = np.array([len(episode) - 1 for episode in episodes])
    assert (corridors.min(), corridors.max()) == (1, 28)
    assert abs(corridors.mean() - 14.5) < 4 * 8.1 / 120**0.5
    ups = 0
    for episode in episodes:
        hint = episode.observations[0, 1]
        assert episode.actions.tolist() == [0] * (len(episode) - 1) + [1 if hint > 0 else 3]
        assert episode.rewards.sum() == 1
        ups += hint > 0
    assert 40 < ups < 80


def test_files_are_those_of_mikasa_robo(tmp_path: Path) -> None:
    record(TMAZE, "oracle", tmp_path / "with", n_episodes=2)
    record(lambda: RandomEnv(CAMERA, VECTOR), "random", tmp_path / "without", n_episodes=1)
    assert sorted(path.name for path in (tmp_path / "with").iterdir()) == [SETTINGS, "train_data_0.npz", "train_data_1.npz"]
    with np.load(tmp_path / "with" / "train_data_1.npz") as stored:
        assert list(stored) == ["observation", "action", "reward", "success", "done"]
        assert [stored[key].dtype for key in stored] == [np.float32, np.int64, np.float32, np.int64, np.int64]
        assert stored["success"].tolist() == stored["done"].tolist() == [0] * 28 + [1]
    with np.load(tmp_path / "without" / "train_data_0.npz") as stored:
        assert list(stored) == ["file", "image", "task", "vector", "action", "reward", "done"]


class Guessed(RandomEnv):
    """Shows a number that it draws from its own generator."""

    def __init__(self) -> None:
        super().__init__(spaces.Discrete(4), spaces.Discrete(4))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.np_random.integers(4), {}


def test_random_actions_know_nothing_of_the_environments_draws(tmp_path: Path) -> None:
    record(Guessed, "random", tmp_path, n_episodes=100)
    episodes = read(tmp_path, Guessed())
    hits = sum(int(episode.actions[0] == episode.observations[0]) for episode in episodes)
    assert 5 < hits < 50


class Scratch(RandomEnv):
    """Reuses one array for all observations, and takes randomness from NumPy's global generator."""

    def __init__(self) -> None:
        super().__init__(VECTOR, spaces.Discrete(3))
        self.array = np.zeros(3, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.array[:] = np.random.random(3)
        return self.array, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        _, *rest = super().step(action)
        self.array[:] = np.random.random(3)
        return (self.array, *rest)


def test_careless_environments_are_recorded_right(tmp_path: Path) -> None:
    for name in ("one", "other"):
        record(Scratch, "random", tmp_path / name, n_episodes=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    for episode in read(tmp_path / "one", Scratch()):
        assert len(np.unique(episode.observations, axis=0)) == len(episode)


# Experts


def test_a_saved_model_acts_as_with_predict(tmp_path: Path) -> None:
    env = gymnasium.make("TMazePassive10-v0")
    make_model(RecurrentPPO, env).save(tmp_path / "model.zip")
    record("TMazePassive10-v0", tmp_path / "model.zip", tmp_path / "data", n_episodes=3)
    model = RecurrentPPO.load(tmp_path / "model.zip")
    for episode in read(tmp_path / "data", env):
        state = None
        for step, observation in enumerate(episode.observations):
            action, state = model.predict(observation, state, np.array([step == 0]), deterministic=True)
            assert action == episode.actions[step]


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_models_of_every_action_space_are_experts(action_space: spaces.Space, tmp_path: Path) -> None:
    env = RandomEnv(VECTOR, action_space)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8)
    record(lambda: RandomEnv(VECTOR, action_space), model, tmp_path, n_episodes=2)
    for episode in read(tmp_path, env):
        expected, _ = model.predict(episode.observations, deterministic=True)
        np.testing.assert_allclose(episode.actions, expected, rtol=1e-5)


class Echo(gymnasium.Env):
    """Shows the action that was played last; 200 steps."""

    observation_space = action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        self.steps = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        self.steps += 1
        return int(action), 0.0, self.steps == 200, False, {}


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_noise_is_played_but_the_experts_action_is_recorded(noise: float, tmp_path: Path) -> None:
    record(Echo, lambda observation: 2, tmp_path, n_episodes=10, noise=noise)
    episodes = read(tmp_path, Echo())
    assert all((episode.actions == 2).all() for episode in episodes)
    foreign = np.mean([episode.observations[1:] != 2 for episode in episodes])
    assert abs(foreign - noise * 2 / 3) < 0.05
    assert not noise or len({tuple(episode.observations) for episode in episodes}) == 10


def test_every_episode_draws_its_own_noise(tmp_path: Path) -> None:
    record(Echo, lambda observation: 2, tmp_path, n_episodes=40, noise=(0.3, 0.9))
    shares = [np.mean(episode.observations[1:] != 2) * 3 / 2 for episode in read(tmp_path, Echo())]
    assert 0.2 < min(shares) < 0.45 < 0.75 < max(shares) < 1.0
    assert abs(np.mean(shares) - 0.6) < 0.08


def test_equal_shares_of_noise_are_one(tmp_path: Path) -> None:
    record(Echo, lambda observation: 2, tmp_path / "one", n_episodes=3, noise=0.5)
    record(Echo, lambda observation: 2, tmp_path / "two", n_episodes=3, noise=(0.5, 0.5))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_function_is_an_expert(tmp_path: Path) -> None:
    record(TMAZE, lambda observation: 1 if observation[2] else 0, tmp_path, n_episodes=2)
    for episode in read(tmp_path, gymnasium.make(TMAZE)):
        assert episode.actions.tolist() == [0] * 28 + [1]


def test_models_of_other_classes_are_to_be_loaded_first(tmp_path: Path) -> None:
    PPO("MlpPolicy", "CartPole-v1").save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"`expert`.*model\.zip"):
        record("CartPole-v1", str(tmp_path / "model.zip"), tmp_path / "data", n_episodes=1)


def test_a_saved_model_of_other_spaces_is_refused(tmp_path: Path) -> None:
    """T-Maze and CartPole both show four numbers."""
    RecurrentPPO("ElmurPolicy", "CartPole-v1", policy_kwargs={"d_model": 8}).save(tmp_path / "model.zip")
    with pytest.raises(
        ValueError, match=r"`expert` must have been trained in the spaces of the environment. Received .*model\.zip"
    ):
        record(TMAZE, tmp_path / "model.zip", tmp_path / "data", n_episodes=1)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("expert", ["orcale", "absent.zip", 3])
def test_no_expert_is_refused(expert: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"`expert`.* Received {expert!r}"):
        record(TMAZE, expert, tmp_path / "data", n_episodes=1)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": "CartPole-v1"}, r"`expert='oracle'`.*oracle_action"),
        ({"n_episodes": 0}, r"`n_episodes`.* 1\. Received 0\."),
        ({"seed": -1}, r"`seed`.* 0\. Received -1\."),
        ({"seed": 2**32 - 1, "n_episodes": 2}, r"`seed` \+ `n_episodes` must be at most 2\*\*32\. Received 4294967295 \+ 2\."),
        ({"noise": 1.5}, r"`noise`.*\[0, 1\]\. Received 1\.5\."),
        ({"noise": (0.5, 1.5)}, r"`noise`.*\[0, 1\]\. Received 1\.5\."),
        ({"noise": (0.6, 0.5)}, r"`noise`.* Received \(0\.6, 0\.5\)\."),
        ({"noise": (0.1, 0.2, 0.3)}, r"`noise`.* Received \(0\.1, 0\.2, 0\.3\)\."),
        ({"format": "csv"}, r"`format`.*'npz', 'minari'\. Received 'csv'\."),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        record(**{"env": TMAZE, "expert": "oracle", "output": tmp_path, "n_episodes": 1} | arguments)


# Successful episodes alone


def up(observation: Any) -> int:
    """Turns the same way in every episode, which is right in half of them."""
    return 1 if observation[2] else 0


def test_only_successful_episodes_are_kept(format: str, tmp_path: Path) -> None:
    outcomes = record(TMAZE, up, tmp_path / "all", n_episodes=20)
    kept = record(TMAZE, up, tmp_path / "kept-v0", n_episodes=20, format=format, only_successful=True)
    assert outcomes == kept
    env = gymnasium.make(TMAZE)
    successful = [episode for episode, outcome in zip(read(tmp_path / "all", env), outcomes, strict=True) if outcome]
    assert 0 < len(successful) < 20
    for episode, same in zip(read(tmp_path / "kept-v0", env), successful, strict=True):
        np.testing.assert_array_equal(episode.observations, same.observations)
        np.testing.assert_array_equal(episode.actions, same.actions)


def test_no_episode_that_failed_is_played_again(tmp_path: Path) -> None:
    whole = record(TMAZE, interrupted(after=-1), tmp_path / "whole", n_episodes=8, only_successful=True)
    with pytest.raises(KeyboardInterrupt):
        record(TMAZE, interrupted(after=31 * 5), tmp_path / "parts", n_episodes=8, only_successful=True)
    there = contents(tmp_path / "parts")
    assert 0 < len(there) < len(contents(tmp_path / "whole"))
    assert record(TMAZE, interrupted(after=31 * 5), tmp_path / "parts", n_episodes=8, only_successful=True) == whole
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_failures_that_another_process_finds_are_kept(tmp_path: Path) -> None:
    def up_beside_another(observation: Any) -> int:
        if not (tmp_path / FAILED).exists():
            (tmp_path / FAILED).write_text("[100]")
        return up(observation)

    outcomes = record(TMAZE, up_beside_another, tmp_path, n_episodes=8, only_successful=True)
    failed = [index for index, outcome in enumerate(outcomes) if not outcome]
    assert json.loads((tmp_path / FAILED).read_text()) == [*failed, 100]


def test_which_episodes_are_kept_belongs_to_a_folder(tmp_path: Path) -> None:
    record(TMAZE, up, tmp_path, n_episodes=2)
    with pytest.raises(ValueError, match=r"`only_successful`.* False.* Received True"):
        record(TMAZE, up, tmp_path, n_episodes=2, only_successful=True)


@pytest.mark.parametrize("text", ["[1", "{}", '["1"]'])
def test_a_damaged_list_of_failures_is_refused(text: str, tmp_path: Path) -> None:
    record(TMAZE, up, tmp_path, n_episodes=2, only_successful=True)
    (tmp_path / FAILED).write_text(text)
    with pytest.raises(ValueError, match=FAILED):
        record(TMAZE, up, tmp_path, n_episodes=2, only_successful=True)


def test_a_minari_set_of_no_episodes_is_not_written(tmp_path: Path) -> None:
    output = tmp_path / "none-v0"
    with pytest.raises(ValueError, match="`only_successful` leaves nothing to write: none of 2 episodes succeeded"):
        record(TMAZE, lambda _: 3, output, n_episodes=2, format="minari", only_successful=True)
    assert not list(tmp_path.iterdir())


def test_environments_that_do_not_say_what_succeeded_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`only_successful` needs `is_success`"):
        record(Guessed, "random", tmp_path, n_episodes=1, only_successful=True)


# Interruptions


def interrupted(after: int) -> Callable[[Any], int]:
    """An expert that raises at its ``after``-th action, and always has the same name."""
    left = after

    def expert(observation: Any) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return 1 if observation[2] else 0

    return expert


def test_a_recording_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    record(TMAZE, interrupted(after=-1), tmp_path / "whole", n_episodes=6, env_kwargs=CORRIDORS)
    for after in (1, 40, 50):
        with pytest.raises(KeyboardInterrupt):
            record(TMAZE, interrupted(after), tmp_path / "parts", n_episodes=6, env_kwargs=CORRIDORS)
    there = contents(tmp_path / "parts")
    assert 2 < len(there) < 6
    assert there.items() < contents(tmp_path / "whole").items()
    times = {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in there}
    record(TMAZE, interrupted(after=-1), tmp_path / "parts", n_episodes=6, env_kwargs=CORRIDORS)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in there} == times


def test_a_damaged_episode_is_played_again(tmp_path: Path) -> None:
    record(TMAZE, "oracle", tmp_path, n_episodes=3)
    before = contents(tmp_path)
    (tmp_path / "train_data_1.npz").write_bytes(b"")
    record(TMAZE, "oracle", tmp_path, n_episodes=3)
    assert contents(tmp_path) == before


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", fail)
        with pytest.raises(OSError, match="No space left"):
            record(TMAZE, "oracle", tmp_path, n_episodes=2)
    assert [path.name for path in tmp_path.iterdir()] == [SETTINGS]


def test_more_episodes_can_be_added(tmp_path: Path) -> None:
    for n_episodes in (1, 3, 2):
        record(TMAZE, "oracle", tmp_path / "grown", n_episodes)
    record(TMAZE, "oracle", tmp_path / "whole", n_episodes=3)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("env", {"env": "TMazePassive100-v0"}),
        ("env_kwargs", {"env_kwargs": {"corridor_length": (1, 27)}}),
        ("env_kwargs", {"env_kwargs": None}),
        ("expert", {"expert": "random"}),
        ("seed", {"seed": 1}),
        ("noise", {"noise": 0.1}),
        ("noise", {"noise": (0.0, 0.1)}),
    ],
)
def test_a_folder_is_recorded_with_one_setting(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    arguments = {"env": TMAZE, "expert": "oracle", "output": tmp_path, "n_episodes": 1, "env_kwargs": CORRIDORS}
    record(**arguments)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    settings["versions"]["numpy"] = "0.0"
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    before = contents(tmp_path)
    record(**arguments)
    with pytest.raises(ValueError, match=rf"`output`.*`{name}`.* Received"):
        record(**arguments | {"n_episodes": 2} | changes)
    assert contents(tmp_path) == before


def test_a_folder_that_a_failed_recording_left_says_how_to_free_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        record(TMAZE, interrupted(after=1), tmp_path, n_episodes=1)
    with pytest.raises(ValueError, match=r"`expert`.* There are no episodes yet: .* delete that file\."):
        record(TMAZE, "oracle", tmp_path, n_episodes=1)
    (tmp_path / SETTINGS).unlink()
    record(TMAZE, "oracle", tmp_path, n_episodes=1)


def test_a_model_that_was_trained_on_is_another_expert(tmp_path: Path) -> None:
    arguments = {"env": "CartPole-v1", "expert": tmp_path / "model.zip", "output": tmp_path / "data", "n_episodes": 1}
    for seed in (0, 1):
        make_model(RecurrentPPO, gymnasium.make("CartPole-v1"), seed=seed).save(tmp_path / "model.zip")
        if seed == 0:
            record(**arguments)
    with pytest.raises(ValueError, match=r"`expert`.*'model\.zip, sha256 .* Received 'model\.zip, sha256"):
        record(**arguments)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "\x00"])
def test_settings_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text(text)
    with pytest.raises(ValueError, match=SETTINGS):
        record(TMAZE, "oracle", tmp_path, n_episodes=1)
    assert contents(tmp_path) == {}


def test_of_recordings_that_begin_at_once_one_has_the_folder(tmp_path: Path) -> None:
    """The other one looked into the folder before the first had noted its settings."""
    looked = Path.exists

    def look_and_be_overtaken(path: Path) -> bool:
        there = looked(path)
        if path.name == SETTINGS and not there:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Path, "exists", looked)
                record(TMAZE, "oracle", tmp_path, n_episodes=1, seed=1)
        return there

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "exists", look_and_be_overtaken)
        with pytest.raises(ValueError, match=r"`output`.*`seed`.* 1\. Received 2\."):
            record(TMAZE, "oracle", tmp_path, n_episodes=3, seed=2)
    assert list(contents(tmp_path)) == ["train_data_0.npz"]


def test_a_folder_with_episodes_of_others_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "train_data_0.npz", action=np.zeros(3))
    with pytest.raises(ValueError, match=r"`output`.*recording\.json"):
        record(TMAZE, "oracle", tmp_path, n_episodes=1)
    assert len(list(tmp_path.iterdir())) == 1


class Broken(RandomEnv):
    """Observes no number in its second episode."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        observation, info = super().reset(seed=seed)
        return (observation * np.nan if seed == 8 else observation), info


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Episode 1.* seed 8.*`observation`.*nan"):
        record(lambda: Broken(VECTOR, ACTION_SPACES[0]), "random", tmp_path, n_episodes=3, seed=7)
    assert set(contents(tmp_path)) == {"train_data_0.npz"}


# Minari


def test_a_minari_data_set_appears_when_complete(minari_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    arguments = {"env": TMAZE, "output": tmp_path / "tmaze-v0", "n_episodes": 3, "format": "minari", "env_kwargs": CORRIDORS}
    with pytest.raises(KeyboardInterrupt):
        record(expert=interrupted(after=30), **arguments)
    assert not list(tmp_path.iterdir())
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path)
    record(expert="oracle", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["tmaze-v0"]
    env = gymnasium.make(TMAZE, **CORRIDORS)
    by_id = open_episodes("minari:tmaze-v0", env.observation_space, env.action_space)
    assert_replays(env, list(by_id), seed=0)
    assert by_id.dataset.recover_environment().unwrapped.config.corridor_range == (1, 28)
    data = next(iter(by_id.dataset))
    assert data.terminations.tolist() == [False] * (len(data) - 1) + [True]
    assert not data.truncations.any()
    assert json.loads((tmp_path / "tmaze-v0" / SETTINGS).read_text())["expert"] == "oracle"
    with pytest.raises(ValueError, match=r"`output`.*tmaze-v0"):
        record(expert="oracle", **arguments)


@pytest.mark.parametrize("observation_space", [IMAGE, CAMERA], ids=["image", "dictionary"])
def test_images_are_refused_where_minari_would_lose_a_part_of_them(
    observation_space: spaces.Space, minari_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(require("minari", "minari"), "create_dataset_from_buffers", lambda *_: pytest.fail("called"))
    env = RandomEnv(observation_space, ACTION_SPACES[0])
    with pytest.raises(ValueError, match=r"`format` must be 'npz' .* JPEG.*Received 'minari'"):
        record(lambda: env, "random", tmp_path / "random-v0", n_episodes=1, format=minari_format)
    assert not list(tmp_path.iterdir())


def test_a_minari_data_set_may_have_a_relative_path(
    minari_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record(TMAZE, "oracle", "below/tmaze-v0", n_episodes=1, format="minari")
    assert (tmp_path / "below" / "tmaze-v0" / SETTINGS).is_file()


@pytest.mark.parametrize("name", ["tmaze", "t maze-v0", "tmaze-v0.1"])
def test_names_that_minari_does_not_take_are_refused(name: str, minari_format: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"`output`.* Received '{name}'\."):
        record(TMAZE, "oracle", tmp_path / name, n_episodes=1, format="minari")


def test_without_minari_its_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(DependencyNotInstalled, match=r'pip install "sb3-elmur\[minari\]"'):
        record(TMAZE, "oracle", tmp_path / "tmaze-v0", n_episodes=1, format="minari")


# The command line


def test_the_command_line_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugin.py").write_text("import gymnasium\ngymnasium.register('Plugin-v0', 'sb3_elmur.envs:TMazeEnv')\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = [
        "--env",
        "Plugin-v0",
        "--gym-packages",
        "plugin",
        "--expert",
        "oracle",
        "--episodes",
        "2",
        "--seed",
        "3",
        "--output",
    ]
    main([*words, str(tmp_path / "data"), "--env-kwargs", "corridor_length:(1,28)", "reward:'eased'", "active:False"])
    env = gymnasium.make(TMAZE, **CORRIDORS, reward="eased")
    data = NpzEpisodes(tmp_path / "data", env.observation_space, env.action_space)
    assert_replays(env, list(data), seed=3)
    noted = json.loads((tmp_path / "data" / SETTINGS).read_text())
    assert noted["env_kwargs"] == {"corridor_length": [1, 28], "reward": "eased", "active": False}


def test_settings_have_no_addresses() -> None:
    assert as_json({"noise": {"of": object()}, "kind": dict}) == {"noise": {"of": "<object object>"}, "kind": "dict"}


def test_the_command_tells_how_many_episodes_succeeded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--env", TMAZE, "--output", str(tmp_path / "data"), "--no-progress"]
    main([*words, "--expert", "oracle", "--episodes", "3"])
    assert "3 episodes" in (first := capsys.readouterr().out)
    assert "3 of the 3" in first
    main([*words, "--expert", "oracle", "--episodes", "4"])
    assert "1 of the 1" in capsys.readouterr().out


def test_the_command_tells_how_many_episodes_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--env", TMAZE, "--output", str(tmp_path / "data"), "--no-progress", "--expert", "random", "--only-successful"]
    for n_episodes in (5, 10):
        main([*words, "--episodes", str(n_episodes)])
        kept = len(list((tmp_path / "data").glob("*.npz")))
        assert f"{kept} of {n_episodes} episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env-kwargs", "reward"], "argument --env-kwargs: expected KEY:VALUE, received 'reward'"),
        (["--env-kwargs", "reward:__import__('os')"], "error: `reward` must be one of"),
        (["--env-kwargs", "rewards:1"], "error: .*unexpected keyword argument 'rewards'"),
        (["--env", "TMaze30-v0"], "error: Environment `TMaze30` doesn't exist"),
        (["--episodes", "0"], "error: `n_episodes`.* 0"),
        (["--gym-packages", "nonsense"], "error: `--gym-packages`.*'nonsense'"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--env", TMAZE, "--expert", "oracle", "--episodes", "1", "--output", str(tmp_path / "data"), *words])
    assert caught.value.code == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "data").exists()


def test_an_output_that_is_a_file_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(SystemExit):
        main(["--env", TMAZE, "--expert", "oracle", "--episodes", "1", "--output", str(tmp_path / "file")])
    assert re.fullmatch(r"error: .*file.*\n", capsys.readouterr().err)


def test_a_progress_bar_counts_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(TMAZE, "oracle", tmp_path, n_episodes=2)
    record(TMAZE, "oracle", tmp_path, n_episodes=4, progress_bar=True)
    err = capsys.readouterr().err
    assert "2/4" in err
    assert "4/4" in err

"""Normalised observations in behaviour cloning and in evaluation."""

import argparse
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import sb3_elmur
from helpers import SMALL, RandomEnv, random_envs
from sb3_elmur.bc import command as bc_command
from sb3_elmur.datasets.episodes import open_episodes
from sb3_elmur.datasets.normalizing import NormalizedEpisodes, fit_normalization
from sb3_elmur.evaluation import command as evaluation_command
from sb3_elmur.recording import record
from sb3_elmur.saved_statistics import find_statistics

ENV = "ShortPendulum-v0"
N_STEPS = 20
OBSERVED = {"far": spaces.Box(1e3, 2e3, (2,)), "image": spaces.Box(0, 255, (3, 3, 1), np.uint8)}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    spec = gym.envs.registration.EnvSpec(ENV, gym.spec("Pendulum-v1").entry_point, max_episode_steps=N_STEPS)
    monkeypatch.setitem(gym.registry, ENV, spec)
    record(ENV, "random", tmp_path / "data", 2, seed=5)
    settings = {"policy_kwargs": SMALL, "n_epochs": 1, "batch_size": 2, "normalize": {"clip_obs": 2.0}, "n_eval_episodes": 1}
    (tmp_path / "bc.yml").write_text(yaml.safe_dump({"default": settings}))
    return tmp_path / "data"


def clone(data: Path, *more: str) -> Path:
    """The file of a model cloned by the command."""
    root = data.parent
    given = ["--env", ENV, "--data", str(data), "--conf-file", str(root / "bc.yml"), "-f", str(root), "--no-progress"]
    bc_command.main([*given, "--device", "cpu", *more])
    return root / "bc_elmur" / f"{ENV}_1" / f"{ENV}.zip"


def evaluate(model: Path, *more: str) -> evaluation_command.Record:
    options: argparse.Namespace = evaluation_command.make_parser().parse_args([str(model), "--no-progress", *more])
    return evaluation_command.evaluate(model, None, options)


def test_keys_that_observations_lack_are_refused(tmp_path: Path) -> None:
    env = random_envs(1, spaces.Dict(OBSERVED))
    record(lambda: RandomEnv(spaces.Dict(OBSERVED), env.action_space), "random", tmp_path, 1)
    episodes = open_episodes(tmp_path, env.observation_space, env.action_space)
    with pytest.raises(ValueError, match=r"`norm_obs_keys`.*'near'"):
        fit_normalization(env, episodes, norm_obs_keys=["near"])


def test_statistics_are_those_of_all_steps(data: Path) -> None:
    env = make_vec_env(ENV, 1)
    episodes = open_episodes(data, env.observation_space, env.action_space)
    normalized = fit_normalization(env, episodes, clip_obs=1.5)
    raw = np.concatenate([episode.observations for episode in episodes])
    np.testing.assert_allclose(normalized.obs_rms.mean, raw.mean(0), atol=1e-5)
    np.testing.assert_allclose(normalized.obs_rms.var, raw.var(0), atol=1e-5)
    seen = NormalizedEpisodes(episodes, normalized)
    expected = np.clip((raw - raw.mean(0)) / raw.std(0), -1.5, 1.5)
    np.testing.assert_allclose(np.concatenate([episode.observations for episode in seen]), expected, atol=1e-4)
    assert seen[0].observations.dtype == np.float32
    np.testing.assert_array_equal(seen[1].actions, episodes[1].actions)
    np.testing.assert_array_equal(seen.lengths, episodes.lengths)


def test_keys_that_are_not_named_stay_as_they_are(tmp_path: Path) -> None:
    space = spaces.Dict(OBSERVED)
    record(lambda: RandomEnv(space, spaces.Discrete(2)), "random", tmp_path, 3)
    env = random_envs(2, space, spaces.Discrete(2))
    episodes = open_episodes(tmp_path, env.observation_space, env.action_space)
    seen = NormalizedEpisodes(episodes, fit_normalization(env, episodes, norm_obs_keys=["far"]))
    assert np.abs(np.concatenate([episode.observations["far"] for episode in seen])).max() < 10
    for index in range(3):
        np.testing.assert_array_equal(seen[index].observations["image"], episodes[index].observations["image"])


def test_the_command_saves_statistics_where_the_zoo_looks_for_them(data: Path) -> None:
    model = clone(data)
    path = model.with_suffix("") / "vecnormalize.pkl"
    assert find_statistics(model) == find_statistics(model.with_name("best_model.zip")) == path
    env = VecNormalize.load(str(path), make_vec_env(ENV, 2))
    assert env.clip_obs == 2.0
    assert not env.training
    loaded = sb3_elmur.RecurrentPPO.load(model, env=env, n_steps=16, batch_size=16, n_epochs=1)
    loaded.learn(32)


def test_the_command_line_switches_it_off(data: Path) -> None:
    assert find_statistics(clone(data, "--no-normalize")) is None


def test_evaluation_shows_the_model_what_it_was_trained_on(data: Path) -> None:
    model = clone(data)
    found = evaluate(model, "--env", ENV, "--episodes", "2", "--seed", "3")
    env = VecNormalize.load(str(model.with_suffix("") / "vecnormalize.pkl"), make_vec_env(ENV, 2))
    env.norm_reward = False
    policy = sb3_elmur.RecurrentPPO.load(model).policy
    env.seed(3)
    obs, state, starts, total = env.reset(), None, np.ones(2, dtype=bool), np.zeros(2)
    for _ in range(N_STEPS):
        actions, state = policy.predict(obs, state, starts, deterministic=True)
        obs, rewards, starts, _ = env.step(actions)
        total += rewards
    np.testing.assert_allclose([episode["return"] for episode in found.episodes], total, rtol=1e-4)
    with pytest.raises(ValueError, match="`--lengths`"):
        evaluate(model, "--lengths", "10")


def test_images_are_evaluated_as_they_were_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = spaces.Dict({"far": OBSERVED["far"], "image": spaces.Box(0, 255, (16, 16, 3), np.uint8)})
    spec = gym.envs.registration.EnvSpec("Camera-v0", lambda: RandomEnv(space, spaces.Discrete(2)), max_episode_steps=9)
    monkeypatch.setitem(gym.registry, "Camera-v0", spec)
    record("Camera-v0", "random", tmp_path / "data", 2)
    settings = {
        "policy": "ElmurMultiInputPolicy",
        "policy_kwargs": SMALL | {"features_extractor_class": "sb3_elmur.encoders.FourLayerExtractor"},
        "normalize": {"norm_obs_keys": ["far"]},
        **{"n_epochs": 1, "batch_size": 2, "n_eval_episodes": 1},
    }
    (tmp_path / "bc.yml").write_text(yaml.safe_dump({"default": settings}))
    model = clone(tmp_path / "data", "--env", "Camera-v0")
    found = evaluate(model.parents[1] / "Camera-v0_1" / "Camera-v0.zip", "--env", "Camera-v0", "--episodes", "3")
    assert len(found.episodes) == 3
    with pytest.raises(ValueError, match=r"vecnormalize\.pkl"):
        evaluate(model.parents[1] / "Camera-v0_1" / "Camera-v0.zip", "--env", "Pendulum-v1")


@pytest.mark.parametrize("value", [1, "yes", [True]])
def test_normalize_must_be_a_truth_value_or_arguments(data: Path, value: object, capsys: pytest.CaptureFixture) -> None:
    (data.parent / "bc.yml").write_text(yaml.safe_dump({"default": {"normalize": value}}))
    with pytest.raises(SystemExit, match="2"):
        clone(data)
    assert re.search(rf"`normalize` .* {re.escape(repr(value))}", capsys.readouterr().err)


def test_discrete_observations_are_refused(tmp_path: Path) -> None:
    env = random_envs(1, spaces.Discrete(3))
    record(lambda: RandomEnv(spaces.Discrete(3), spaces.Discrete(3)), "random", tmp_path, 1)
    episodes = open_episodes(tmp_path, env.observation_space, env.action_space)
    with pytest.raises(ValueError, match="VecNormalize"):
        fit_normalization(env, episodes)

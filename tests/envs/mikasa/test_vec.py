"""Properties of the batch of MIKASA-Robo episodes, on a fake simulator with the interface of ManiSkill's."""

from __future__ import annotations

from argparse import Namespace
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium.error import ResetNeeded
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import VecMonitor

from helpers import SMALL
from mikasa_fakes import HIDDEN, FakeSimulation
from sb3_elmur import RecurrentPPO
from sb3_elmur.encoders import FourLayerExtractor
from sb3_elmur.envs import MikasaVecEnv
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.envs.mikasa import episodes as mikasa_episodes
from sb3_elmur.envs.mikasa import vec as mikasa_vec
from sb3_elmur.zoo.commands import register

LIMIT = 60


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeSimulation]:
    """The fake simulations that take the place of ManiSkill's on a GPU."""
    simulations: list[FakeSimulation] = []

    def make(task: str, n_envs: int, reward_mode: str, observed: str, *more: Any) -> FakeSimulation:
        simulations.append(FakeSimulation(n_envs, images=observed == "rgb", hidden_objects=observed == "rgb"))
        return simulations[-1]

    monkeypatch.setattr(mikasa_episodes, "make_simulation", make)
    monkeypatch.setattr(MikasaVecEnv, "supports", staticmethod(lambda **arguments: True))
    return simulations


def act(n_envs: int, value: float = 0.0) -> np.ndarray:
    return np.full((n_envs, 8), value, dtype=np.float32)


def test_all_episodes_last_until_the_limit_and_begin_together(made: list[FakeSimulation]) -> None:
    env = MikasaVecEnv(3, "RememberColor3", obs_mode="state", seed=0)
    first = env.reset()
    np.testing.assert_array_equal(first[:, 0], [0, 1, 2])
    for step in range(1, LIMIT + 1):
        observations, rewards, dones, infos = env.step(act(3, 0.5))
        assert dones.tolist() == [step == LIMIT] * 3
        assert [info["TimeLimit.truncated"] for info in infos] == dones.tolist()
        np.testing.assert_array_equal(rewards, 4.0)
        assert all(("terminal_observation" in info) == (step == LIMIT) for info in infos)
    np.testing.assert_array_equal([info["terminal_observation"][1] for info in infos], LIMIT)
    np.testing.assert_array_equal(observations[:, 1], 0)
    assert rewards.dtype == observations.dtype == infos[0]["terminal_observation"].dtype == np.float32
    assert made[0].elapsed == 0


def test_success_once_is_kept_and_success_at_the_end_is_not(made: list[FakeSimulation]) -> None:
    env = MikasaVecEnv(2, "RememberColor3", seed=2)
    env.reset()  # seeds 2 and 3: success from 0.2 and from 0.3 on
    assert [info["is_success"] for info in env.step(act(2, 0.25))[3]] == [True, False]
    assert [info["success_at_end"] for info in env.step(act(2, 0.0))[3]] == [False, False]
    for _ in range(LIMIT - 2):
        *_, infos = env.step(act(2, 0.0))
    assert [(info["is_success"], info["success_at_end"]) for info in infos] == [(True, False), (False, False)]
    assert [info["is_success"] for info in env.step(act(2, -1.0))[3]] == [False, False]


def test_actions_are_clipped_and_what_is_no_action_is_refused(made: list[FakeSimulation]) -> None:
    env = MikasaVecEnv(2, "RememberColor3")
    with pytest.raises(ResetNeeded):
        env.step(act(2))
    env.reset()
    env.step(act(2, -7.0))
    assert made[0].actions.eq(-1.0).all()
    for wrong in (act(3), act(2) * np.nan, act(2) > 0):
        with pytest.raises(ValueError, match=r"`actions`"):
            env.step(wrong)


def test_a_seed_repeats_all_episodes_and_the_next_ones_differ(made: list[FakeSimulation]) -> None:
    def play(seed: int) -> list[Any]:
        env = MikasaVecEnv(4, "RememberColor3", obs_mode="state", seed=seed)
        seen = [env.reset()]
        for _ in range(2 * LIMIT):
            seen.append(env.step(act(4))[0])
        return [seen[0], seen[LIMIT], seen[2 * LIMIT]]

    first, again, other = play(5), play(5), play(6)
    np.testing.assert_array_equal(first, again)
    assert (first[1] != other[1]).any()
    assert (first[1] != first[2]).any()


def test_a_step_leaves_the_device_in_one_copy(made: list[FakeSimulation], monkeypatch: pytest.MonkeyPatch) -> None:
    env = MikasaVecEnv(2, "RememberColor3", obs_mode="rgb_joints", camera_size=16)
    env.reset()
    copies = []
    cpu = th.Tensor.cpu
    monkeypatch.setattr(th.Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or cpu(tensor))
    monkeypatch.setattr(th.Tensor, "numpy", _only_scalars_or(copies, th.Tensor.numpy))
    for _ in range(LIMIT):
        copies.clear()
        env.step(act(2))
        assert len(copies) == 1


def _only_scalars_or(copies: list[Any], numpy: Any) -> Any:
    def convert(tensor: th.Tensor) -> np.ndarray:
        assert tensor.dim() == 0 or copies, "a tensor became an array without a copy to the host"
        return numpy(tensor)

    return convert


def test_images_of_both_cameras_stand_side_by_side_and_keep_their_type(made: list[FakeSimulation]) -> None:
    env = MikasaVecEnv(3, "RememberColor3", obs_mode="rgb_joints", camera_size=16, seed=4)
    observations = env.reset()
    assert set(observations) == {"rgb", "joints"}
    for key, space in env.observation_space.items():
        assert observations[key].shape == (3, *space.shape)
        assert observations[key].dtype == space.dtype
    np.testing.assert_array_equal(observations["rgb"][:, 0, 0], [[seed] * 3 + [seed + 100] * 3 for seed in (4, 5, 6)])


@pytest.mark.parametrize("obs_mode", ["state_cue", "rgb"])
def test_on_a_gpu_physics_is_told_where_things_are_only_where_images_hide_some(
    made: list[FakeSimulation], obs_mode: str
) -> None:
    env = MikasaVecEnv(2, "RememberColor3", obs_mode=obs_mode, camera_size=16)
    env.reset()
    for _ in range(4):
        env.step(act(2))
    if obs_mode == "rgb":
        assert made[0].physical == [[pytest.approx(0.02)] * 3] * 4
        assert made[0].applied > 0
    else:  # the real simulator overwrites what is shown
        assert made[0].physical[0] == [HIDDEN] * 3
        assert made[0].applied == 0


def test_recurrent_ppo_trains_on_images_and_joints(made: list[FakeSimulation]) -> None:
    env = VecMonitor(MikasaVecEnv(2, "RememberColor3", obs_mode="rgb_joints", camera_size=16, seed=0))
    kwargs = SMALL | {"features_extractor_class": FourLayerExtractor, "features_extractor_kwargs": {"cnn_output_dim": 8}}
    model = RecurrentPPO("ElmurMultiInputPolicy", env, n_steps=32, batch_size=64, n_epochs=1, policy_kwargs=kwargs, seed=0)
    before = [parameter.clone() for parameter in model.policy.features_extractor.parameters()]
    model.learn(128)
    assert all((old != new).any() for old, new in zip(before, model.policy.features_extractor.parameters(), strict=True))
    assert [info["l"] for info in model.ep_info_buffer] == [LIMIT, LIMIT]
    assert len(model.ep_success_buffer) == 2


def test_make_batch_plays_together_what_is_not_drawn(made: list[FakeSimulation]) -> None:
    env = make_batch("MikasaRememberColor9-v0", 4, {"obs_mode": "state"})
    assert isinstance(env, MikasaVecEnv)
    assert env.config.task == "RememberColor9"
    env.close()
    assert made[0].closed


def test_the_zoo_trains_many_together(made: list[FakeSimulation], tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3", reason='rl_zoo3 is missing: pip install "sb3-elmur[zoo]"')
    zoo_manager = import_module("sb3_elmur.zoo.manager")
    register()
    config = str(files("sb3_elmur.zoo_configs").joinpath("ppo_elmur.yml"))
    small = {"n_envs": 3, "n_steps": LIMIT, "batch_size": LIMIT, "n_epochs": 1, "env_kwargs": {"obs_mode": "state"}}
    manager = zoo_manager.CheckedExperimentManager(
        Namespace(), "ppo_elmur", "MikasaRememberColor3-v0", str(tmp_path), config=config, seed=5, n_timesteps=3 * LIMIT,
        hyperparams=small, eval_freq=-1, log_interval=-1, verbose=0,
    )  # fmt: skip
    model, _ = manager.setup_experiment()
    assert [simulation.n_envs for simulation in made] == [3]
    assert isinstance(model.env.unwrapped, MikasaVecEnv)
    manager.learn(model)
    assert load_results(manager.save_path)["l"].tolist() == [LIMIT] * 3


@pytest.mark.parametrize(
    ("gpu", "arguments", "together"),
    [
        (False, {}, True),
        (False, {"obs_mode": "state"}, True),
        (False, {"obs_mode": "rgb"}, False),
        (True, {"obs_mode": "rgb_joints"}, True),
        (True, {"render_mode": "rgb_array"}, False),
    ],
)
def test_without_a_gpu_several_are_played_together_unless_they_are_drawn(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, arguments: dict[str, str], together: bool
) -> None:
    monkeypatch.setattr(mikasa_vec.th.cuda, "is_available", lambda: gpu)
    assert MikasaVecEnv.supports(task="RememberColor3", **arguments) == together


def test_several_environments_with_images_are_refused_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mikasa_vec.th.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"`n_envs`.* 2"):
        MikasaVecEnv(2, "RememberColor3", obs_mode="rgb")


def test_attributes_are_shared_and_there_are_no_methods(made: list[FakeSimulation]) -> None:
    env = MikasaVecEnv(2, "RememberColor3")
    assert [config.task for config in env.get_attr("config", [1])] == ["RememberColor3"]
    env.set_attr("mark", 1)
    assert env.get_attr("mark") == [1, 1]
    with pytest.raises(ValueError, match=r"`indices`"):
        env.set_attr("mark", 2, [0])
    with pytest.raises(AttributeError, match="'fly'"):
        env.env_method("fly")


def test_arrays_on_the_host_equal_the_tensors_whatever_their_types() -> None:
    tensors = {
        "image": th.arange(15, dtype=th.uint8).view(3, 5),
        "flag": th.tensor([True, False, True]),
        "number": th.randn(3, 2),
        "double": th.randn(3, dtype=th.float64),
    }
    arrays = mikasa_vec.to_host(tensors)
    assert set(arrays) == set(tensors)
    for name, values in tensors.items():
        assert arrays[name].dtype == values.numpy().dtype
        np.testing.assert_array_equal(arrays[name], values.numpy())

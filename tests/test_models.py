"""Saved models: how they load, the statistics that belong to them, and other numbers of slots."""

import os
import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

import sb3_elmur
from helpers import DICT, RandomEnv, make_model, random_envs
from sb3_elmur import RecurrentPPO, resize_memory
from sb3_elmur.core.cells import GRU
from sb3_elmur.models import load_model
from sb3_elmur.recording import record
from sb3_elmur.saved_statistics import check_statistics, find_statistics, normalized

SAVED = Path(__file__).parent / "saved"
FAR = spaces.Box(1e3, 2e3, (2,))


# Loading


@pytest.mark.parametrize("cls", [sb3_elmur.RecurrentPPO, sb3_contrib.RecurrentPPO], ids=["ours", "host's"])
def test_a_model_of_version_0_1_0_acts_as_it_did(cls: type) -> None:
    model = cls.load(SAVED / "elmur_0.1.0.zip", device="cpu")
    expected = np.load(SAVED / "elmur_0.1.0_expected.npz")
    state = None
    for time, observation in enumerate(expected["observation"]):
        _, state = model.predict(observation, state=state, episode_start=np.full(2, time == 0), deterministic=True)
        logits = model.policy.action_dist.distribution.logits.detach().numpy()
        np.testing.assert_allclose(logits, expected["logits"][time], atol=1e-5)


def test_a_model_with_a_features_extractor_of_version_0_1_0_loads() -> None:
    model = sb3_elmur.RecurrentPPO.load(SAVED / "images_0.1.0.zip", device="cpu")
    assert type(model.policy.features_extractor).__name__ == "FourLayerExtractor"


@pytest.mark.parametrize(
    ("cls", "policy", "loaded"),
    [
        (RecurrentPPO, "ElmurPolicy", RecurrentPPO),
        (sb3_contrib.RecurrentPPO, "MlpLstmPolicy", sb3_contrib.RecurrentPPO),
    ],
    ids=["ours", "host's"],
)
def test_models_of_both_classes_load(cls: type, policy: str, loaded: type, tmp_path: Path) -> None:
    cls(policy, "CartPole-v1", n_steps=8, batch_size=8).save(tmp_path / "model")
    assert type(load_model(tmp_path / "model.zip", "cpu")) is loaded


@pytest.mark.parametrize("blend", ["learned", "gated", "gated_recurrent"])
def test_a_loaded_model_blends_as_the_saved_one(blend: str, tmp_path: Path) -> None:
    model = make_model(RecurrentPPO, "CartPole-v1", policy_kwargs={"blend": blend, "gate_bias": 1.0, "segment_length": 2})
    model.save(tmp_path / "model")
    policies, states = (model.policy, load_model(tmp_path / "model.zip", "cpu").policy), [None, None]
    for observation in np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32):
        for i, policy in enumerate(policies):
            _, states[i] = policy.predict(observation, states[i], deterministic=True)
        np.testing.assert_array_equal(states[0], states[1])


def test_a_file_that_ours_refuses_is_not_loaded_as_the_hosts(tmp_path: Path) -> None:
    make_model(sb3_contrib.RecurrentPPO, "CartPole-v1", ent_coef=-0.1).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"model\.zip is not a model of sb3_elmur\.RecurrentPPO: .*`ent_coef`.*-0\.1"):
        load_model(tmp_path / "model.zip", "cpu")


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(tmp_path / "ppo")
    (tmp_path / "text.zip").write_text("text")
    for name in ("ppo.zip", "text.zip"):
        with pytest.raises(ValueError, match=name):
            load_model(tmp_path / name, "cpu")
    os.mkfifo(tmp_path / "pipe.zip")
    for name in ("absent.zip", "pipe.zip"):
        with pytest.raises(FileNotFoundError, match=name):
            load_model(tmp_path / name, "cpu")


# Statistics


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_statistics_belong_to_a_model_by_name(tmp_path: Path) -> None:
    run = tmp_path / "Side-v0_1"
    final, best = write(run / "Side-v0" / "vecnormalize.pkl"), run / "best_model.zip"
    assert find_statistics(run / "Side-v0.zip") == find_statistics(best) == final
    assert find_statistics(run / "rl_model_256_steps.zip") is None
    checkpoint = write(run / "rl_model_vecnormalize_256_steps.pkl")
    assert find_statistics(run / "rl_model_256_steps.zip") == checkpoint
    assert find_statistics(run / "rl_model_2560_steps.zip") is None
    own = write(run / "best_model" / "vecnormalize.pkl")
    assert find_statistics(best) == own
    run = tmp_path / "Side-v0_2_12345678-9abc-4def-8123-456789abcdef"
    final = write(run / "Side-v0" / "vecnormalize.pkl")
    assert find_statistics(run / "best_model.zip") == final


def test_statistics_of_a_sibling_are_never_taken(tmp_path: Path) -> None:
    write(tmp_path / "other" / "vecnormalize.pkl")
    write(tmp_path / "vecnormalize.pkl")
    for name in ("model", "best_model", "other_1", "othe"):
        assert find_statistics(tmp_path / f"{name}.zip") is None
    with pytest.warns(UserWarning, match=r"model\.zip.*model/vecnormalize\.pkl"):
        find_statistics(tmp_path / "model.zip", make_model(RecurrentPPO, random_envs(1)))


def test_statistics_that_are_missing_are_missed_aloud(tmp_path: Path) -> None:
    trained = make_model(RecurrentPPO, VecNormalize(random_envs(1))).learn(16)
    trained.save(tmp_path / "model")
    model = load_model(tmp_path / "model.zip", "cpu")
    with pytest.warns(UserWarning, match=r"model\.zip.*VecNormalize"):
        find_statistics(tmp_path / "model.zip", model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_statistics(tmp_path / "model.zip", make_model(RecurrentPPO, random_envs(1)).learn(16))


def test_statistics_of_a_clone_that_are_missing_are_missed_aloud(tmp_path: Path) -> None:
    """Cloning never calls ``learn``."""
    resize_memory(make_model(RecurrentPPO, VecNormalize(random_envs(1))), 1).save(tmp_path / "clone")
    with pytest.warns(UserWarning, match=r"clone\.zip.*VecNormalize"):
        find_statistics(tmp_path / "clone.zip", load_model(tmp_path / "clone.zip", "cpu"))
    make_model(RecurrentPPO, VecNormalize(random_envs(1), norm_obs=False)).save(tmp_path / "rewards")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_statistics(tmp_path / "rewards.zip", load_model(tmp_path / "rewards.zip", "cpu"))


def saved_statistics(path: Path, space: spaces.Space = FAR, **arguments: Any) -> VecNormalize:
    """The environments whose statistics were saved."""
    env = VecNormalize(random_envs(2, space), **arguments)
    env.reset()
    for _ in range(10):
        env.step(np.zeros(2, dtype=int))
    env.save(str(path))
    return env


@pytest.mark.parametrize(
    ("space", "arguments"),
    [(FAR, {"clip_obs": 0.5}), (FAR, {"norm_obs": False}), (DICT, {"norm_obs_keys": ["vector"]})],
    ids=["Box", "off", "Dict"],
)
def test_observations_are_normalised_as_by_the_host(space: spaces.Space, arguments: dict[str, Any], tmp_path: Path) -> None:
    saved = saved_statistics(tmp_path / "vecnormalize.pkl", space, **arguments)
    check_statistics(tmp_path / "vecnormalize.pkl")
    env = normalized(random_envs(2, space), tmp_path / "vecnormalize.pkl")
    observations: Any = saved.get_original_obs()
    np.testing.assert_equal(env.normalize_obs(observations), saved.normalize_obs(observations))
    assert env.observation_space == saved.observation_space
    assert (env.training, env.norm_reward) == (False, False)


class Bomb:
    """Makes a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_damaged_type_of_an_array_is_refused(tmp_path: Path) -> None:
    """NumPy takes any flags for a type of its own, and crashes when it is used."""
    path = tmp_path / "vecnormalize.pkl"
    saved_statistics(path)
    content = path.read_bytes()
    damaged = content.replace(b"\xff\xff\xffK\x00t", b"\xff\xff\xffK\x10t")  # the flags, the last of a type's state
    assert damaged != content
    path.write_bytes(damaged)
    for read in (check_statistics, lambda path: normalized(random_envs(2, FAR), path)):
        with pytest.raises(ValueError, match=r"vecnormalize\.pkl"):
            read(path)


def test_statistics_run_no_code(tmp_path: Path) -> None:
    env, path = saved_statistics(tmp_path / "vecnormalize.pkl"), tmp_path / "vecnormalize.pkl"
    env.reset_infos = [Bomb(tmp_path / "boom")]
    env.save(str(path))
    assert normalized(random_envs(2, FAR), path).obs_rms.count > 0
    with pytest.raises(ValueError, match=r"vecnormalize\.pkl.*mkdir"):
        check_statistics(path)
    env.obs_rms = Bomb(tmp_path / "boom")
    env.save(str(path))
    with pytest.raises(ValueError, match=r"vecnormalize\.pkl"):
        normalized(random_envs(2, FAR), path)
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(ValueError, match=r"vecnormalize\.pkl"):
        normalized(random_envs(2, FAR), path)
    assert not (tmp_path / "boom").exists()


def test_statistics_of_other_observations_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vecnormalize.pkl"
    saved_statistics(path)
    for space in (spaces.Box(-1, 1, (3,)), DICT):
        with pytest.raises(ValueError, match=r"vecnormalize\.pkl"):
            normalized(random_envs(2, space), path)


def test_damaged_statistics_are_refused_by_name(tmp_path: Path) -> None:
    path, env = tmp_path / "vecnormalize.pkl", random_envs(2, FAR)
    saved_statistics(path)
    whole, generator = path.read_bytes(), random.Random(0)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(content[: generator.choice([len(content), generator.randrange(len(content))])])
        try:
            normalized(env, path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017


class Side(RandomEnv):
    """Asks which side of 1000 a number is; one step."""

    def __init__(self) -> None:
        super().__init__(spaces.Box(-np.inf, np.inf, (1,)), spaces.Discrete(2))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.side = int(self.np_random.integers(2))
        return np.array([1000 + 2 * self.side - 1], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return np.array([1000.0], np.float32), float(action == self.side), True, False, {}


def test_a_recorded_model_sees_observations_by_its_own_statistics(tmp_path: Path) -> None:
    env = VecNormalize(sb3_elmur.RecurrentPPO._wrap_env(Side()), norm_reward=False)
    env.obs_rms.mean, env.obs_rms.var = np.array([1000.0]), np.array([1.0])
    model = make_model(RecurrentPPO, env)
    with th.no_grad():  # the first feature decides, if it is small
        model.policy.action_net.weight.zero_()
        states = []
        for side in (-1.0, 1.0):
            obs = th.tensor([[side]])
            latent, _ = model.policy.replay(obs, model.policy.initial_memories(1)[0], th.ones(1, dtype=th.int64))
            states.append(latent[0])
        model.policy.action_net.weight[1] = states[1] - states[0]
        model.policy.action_net.bias[1] = -((states[1] - states[0]) @ (states[1] + states[0])) / 2
    model.save(tmp_path / "model")
    (tmp_path / "model").mkdir()
    env.save(str(tmp_path / "model" / "vecnormalize.pkl"))
    record(Side, tmp_path / "model.zip", tmp_path / "data", 20)
    rewards = [np.load(path)["reward"].sum() for path in (tmp_path / "data").glob("*.npz")]
    assert rewards == [1.0] * 20


# Other numbers of slots


@pytest.mark.parametrize("memory_size", [1, 2, 5])
def test_a_resized_model_keeps_weights_and_first_slots_and_trains_on(memory_size: int, tmp_path: Path) -> None:
    model = make_model(RecurrentPPO, random_envs(2), n_epochs=1, policy_kwargs={"separate_critic": True}).learn(32)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    resized = resize_memory(model, memory_size)
    for name, tensor in resized.policy.state_dict().items():
        kept = tensor[:, :2] if name.endswith("initial_slots") else tensor
        th.testing.assert_close(kept, before[name][:, :memory_size] if name.endswith("initial_slots") else before[name])
        assert th.equal(model.policy.state_dict()[name], before[name])
    assert resized.policy.backbone.core.initial_slots.shape[1] == memory_size
    resized.learn(32)
    resized.save(tmp_path / "resized")
    assert RecurrentPPO.load(tmp_path / "resized").policy.config.memory_size == memory_size


def test_a_model_is_left_as_it_is_when_its_resized_copy_learns() -> None:
    model = make_model(RecurrentPPO, random_envs(2)).learn(32)
    count = model.return_rms.count
    resized = resize_memory(model, 3)
    resized.learn(32, reset_num_timesteps=False)
    assert model.return_rms.count == count
    assert resized.return_rms.count > count
    model.learn(32, reset_num_timesteps=False)
    for each in (model, resized):  # the environments are the same, so that each begins new episodes
        assert each.rollout_buffer.episode_starts[0].all()
        assert not each.rollout_buffer.positions[0].any()


def test_resizing_seeds_no_generators() -> None:
    model, drawn = make_model(RecurrentPPO, random_envs(1)), []
    for seed in (5, 6):
        th.manual_seed(seed)
        assert resize_memory(model, 3).seed == model.seed
        drawn.append(th.rand(1).item())
    assert drawn[0] != drawn[1]


def test_what_is_not_trained_is_not_trained_in_a_resized_model() -> None:
    model = make_model(RecurrentPPO, random_envs(1))
    model.policy.action_net.requires_grad_(False)
    trained = {name for name, parameter in resize_memory(model, 1).policy.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in model.policy.named_parameters() if parameter.requires_grad}


def test_added_slots_are_always_the_same() -> None:
    model = make_model(RecurrentPPO, random_envs(1))
    one, two = resize_memory(model, 6), resize_memory(model, 6)
    assert th.equal(one.policy.backbone.core.initial_slots, two.policy.backbone.core.initial_slots)


@pytest.mark.parametrize("memory_size", [0, 1.5, True])
def test_a_wrong_number_of_slots_is_refused(memory_size: float) -> None:
    with pytest.raises(ValueError, match=f"`memory_size`.* Received {memory_size!r}"):
        resize_memory(make_model(RecurrentPPO, random_envs(1)), memory_size)  # type: ignore[arg-type]


class OwnMemory(GRU):
    """A class of a user."""


@pytest.mark.parametrize(("core", "name"), [("gru", "gru"), (OwnMemory, f"{__name__}:OwnMemory")])
def test_a_model_without_slots_is_refused_by_the_name_of_its_core(core: Any, name: str) -> None:
    model = make_model(RecurrentPPO, random_envs(1), policy_kwargs={"core": core})
    with pytest.raises(ValueError, match=f"core='{name}'"):
        resize_memory(model, 4)

"""Exported files act as the policies do, by onnxruntime."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO as HostRecurrentPPO
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from helpers import TURN, VECTOR, make_model, make_policy, random_envs
from sb3_elmur import ElmurCnnPolicy, ElmurMultiInputPolicy, ElmurPolicy, RecurrentPPO
from sb3_elmur.core import Elmur, RecurrentCore
from sb3_elmur.encoders import ColorKeypointsExtractor
from sb3_elmur.spaces import map_observations

pytest.importorskip("onnxruntime", reason='onnxruntime is missing: pip install "sb3-elmur[export]"')
pytest.importorskip("onnxscript")

import onnxruntime

from sb3_elmur.export import export_policy, file
from sb3_elmur.export.checking import Session, check_file, compare, draw_observations

GRU: dict[str, Any] = {"core": "gru"}
ONE: dict[str, Any] = {"n_layers": 1}
IMAGES = spaces.Box(0, 255, (3, 36, 36), np.uint8)
SHIFTED = spaces.Discrete(5, start=2)
DICTIONARY = spaces.Dict({"image": IMAGES, "vector": VECTOR, "bits": spaces.MultiBinary(3)})
BOX = spaces.Box(-2, 1, (2,))

CASES: dict[str, tuple[spaces.Space, spaces.Space, type[ElmurPolicy], dict[str, Any]]] = {
    "discrete": (SHIFTED, spaces.Discrete(3, start=1), ElmurPolicy, {}),
    "gated, several discrete": (VECTOR, spaces.MultiDiscrete([2, 3]), ElmurPolicy, {"blend": "gated", "gate_bias": 0.0}),
    "learned, binary": (spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), ElmurPolicy, {"blend": "learned"}),
    "two stacks, clipped": (VECTOR, BOX, ElmurPolicy, {"separate_critic": True, "net_arch": [8]}),
    "squashed": (VECTOR, BOX, ElmurPolicy, {"use_sde": True, "squash_output": True}),
    "images": (IMAGES, TURN, ElmurCnnPolicy, {}),
    "dictionary": (DICTIONARY, BOX, ElmurMultiInputPolicy, {}),
    "experts": (VECTOR, TURN, ElmurPolicy, {"ffn": "moe", "n_routed_experts": 8, "norm_first": True}),
    "compiled": (VECTOR, TURN, ElmurPolicy, {"compile": True}),
    "without slots": (VECTOR, BOX, ElmurPolicy, {"memory_size": 0}),
    "lstm, images": (IMAGES, BOX, ElmurCnnPolicy, {"core": "lstm"}),
    "gru, dictionary": (DICTIONARY, TURN, ElmurMultiInputPolicy, GRU),
    "mingru": (VECTOR, TURN, ElmurPolicy, {"core": "mingru"}),
    "ffm": (VECTOR, TURN, ElmurPolicy, {"core": "ffm"}),
    "shm": (VECTOR, BOX, ElmurPolicy, {"core": "shm"}),
    "gtrxl": (VECTOR, BOX, ElmurPolicy, {"core": "gtrxl"}),
    "gru, colours": (DICTIONARY, TURN, ElmurMultiInputPolicy, GRU | {"features_extractor_class": ColorKeypointsExtractor}),
}  # fmt: skip


def check(path: Path, policy: ElmurPolicy, steps: int = 1000, batch: int = 4, normalize: VecNormalize | None = None) -> None:
    """Actions over some steps, with episodes that begin at random, are those of ``predict``."""
    session, rng = Session(path), np.random.default_rng(1)
    exported, state = session.empty_state(batch), None
    policy.observation_space.seed(1)
    for t in range(steps):
        starts = rng.random(batch) < (0.03 if t else 2.0)
        obs = map_observations(lambda *rows: np.stack(rows), *(policy.observation_space.sample() for _ in range(batch)))
        action, _, exported = session.step(obs, starts, exported)
        seen = obs if normalize is None else normalize.normalize_obs(obs)
        expected, state = policy.predict(seen, state, starts, deterministic=True)
        assert action.dtype == (np.float32 if isinstance(policy.action_space, spaces.Box) else np.int64)
        np.testing.assert_allclose(action, expected, rtol=0, atol=1e-5)


def test_observations_to_check_with_lie_where_networks_do_not_overflow() -> None:
    largest = np.finfo(np.float32).max  # stands for no bound in many environments
    space = spaces.Box(-largest, largest, (3,))
    observations = draw_observations(space, 4)
    assert space.contains(observations[0])
    make_policy(space, BOX).predict(observations)  # raises where actions are no numbers


@pytest.fixture(scope="module")
def gru(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ElmurPolicy]:
    """The file of a GRU that sees vectors and turns, and its policy."""
    policy, path = make_policy(VECTOR, TURN, **GRU), tmp_path_factory.mktemp("gru") / "policy.onnx"
    export_policy(policy, path)
    return path, policy


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_file_acts_as_predict_does(name: str, tmp_path: Path) -> None:
    observation_space, action_space, cls, settings = CASES[name]
    policy = make_policy(observation_space, action_space, cls, **settings)
    export_policy(policy, tmp_path / "policy.onnx")
    if isinstance(policy.backbone.core, Elmur):
        policy.backbone.core.run_eagerly()  # to save the time of compiling
    check(tmp_path / "policy.onnx", policy)


class Fading(RecurrentCore):
    """A memory of one's own."""

    def initial(self, batch: int) -> tuple[th.Tensor, ...]:
        return (th.zeros(batch, self.config.d_model),)

    def advance(self, x: th.Tensor, state: tuple[th.Tensor, ...]) -> tuple[th.Tensor, tuple[th.Tensor, ...]]:
        after = 0.9 * state[0] + x.tanh()
        return after, (after,)


def test_a_memory_of_ones_own_is_exported(tmp_path: Path) -> None:
    policy = make_policy(VECTOR, TURN, core=Fading)
    export_policy(policy, tmp_path / "policy.onnx")
    check(tmp_path / "policy.onnx", policy, steps=60)


def test_a_file_takes_any_number_of_rows(gru: tuple[Path, ElmurPolicy]) -> None:
    for batch in (1, 2, 7):
        check(*gru, steps=60, batch=batch)


def test_its_arguments_are_named_and_typed(gru: tuple[Path, ElmurPolicy]) -> None:
    session = onnxruntime.InferenceSession(gru[0])
    inputs = {argument.name: (argument.shape, argument.type) for argument in session.get_inputs()}
    assert inputs["observation"] == (["batch", 3], "tensor(float)")
    assert inputs["episode_start"] == (["batch"], "tensor(bool)")
    assert inputs["state.memory.position"] == (["batch"], "tensor(int64)")
    names = [argument.name for argument in session.get_outputs()]
    assert names[:2] == ["action", "value"]
    assert [f"next_{name}" for name in inputs if name.startswith("state.")] == names[2:]
    assert session.get_modelmeta().custom_metadata_map["core"] == "GRU"


def test_an_episode_may_begin_with_any_state(gru: tuple[Path, ElmurPolicy]) -> None:
    session, obs, begins = Session(gru[0]), np.ones((1, 3), np.float32), np.array([True])
    garbage = {
        name: np.full_like(tensor, np.nan if tensor.dtype == np.float32 else 99)
        for name, tensor in session.empty_state(1).items()
    }
    _, value, _ = session.step(obs, begins, garbage)
    np.testing.assert_array_equal(value, session.step(obs, begins, session.empty_state(1))[1])


def test_values_are_the_policys(gru: tuple[Path, ElmurPolicy]) -> None:
    assert compare(*gru, None, steps=50).values.max() < 1e-5


def test_statistics_of_observations_become_part_of_the_file(tmp_path: Path) -> None:
    normalize = VecNormalize(random_envs(1), clip_obs=1.5)
    assert isinstance(normalize.obs_rms, RunningMeanStd)
    normalize.obs_rms.mean, normalize.obs_rms.var = np.array([0.5, -3.0, 1e4]), np.array([0.2, 4.0, 1e-3])
    model = make_model(RecurrentPPO, random_envs(1), policy_kwargs=GRU)
    export_policy(model.policy, tmp_path / "policy.onnx", normalize)
    check(tmp_path / "policy.onnx", model.policy, steps=100, normalize=normalize)


def test_a_file_of_other_weights_is_noticed(gru: tuple[Path, ElmurPolicy]) -> None:
    other = copy.deepcopy(gru[1])
    with th.no_grad():
        other.value_net.bias.add_(0.01)
    with pytest.raises(ValueError, match="`policy` must act"):
        check_file(gru[0], other, None)


def test_a_file_that_fails_its_check_leaves_the_one_before(
    gru: tuple[Path, ElmurPolicy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("other numbers")

    path = tmp_path / "policy.onnx"
    path.write_bytes(b"of before")
    monkeypatch.setattr(file, "check_file", fail)
    with pytest.raises(ValueError, match="other numbers"):
        export_policy(gru[1], path)
    assert path.read_bytes() == b"of before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_step_that_branches_on_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(VECTOR, TURN, **GRU)
    step = type(policy.backbone.core).step

    def branching(self: Any, x: Any, *arguments: Any, **options: Any) -> Any:
        return step(self, -x if x.sum() > 0 else x, *arguments, **options)

    monkeypatch.setattr(type(policy.backbone.core), "step", branching)
    with pytest.raises(ValueError, match=r"`policy` must have a step.*GRU"):
        export_policy(policy, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_a_foreign_policy_is_refused(tmp_path: Path) -> None:
    host = HostRecurrentPPO("MlpLstmPolicy", random_envs(1)).policy
    with pytest.raises(TypeError, match=r"`policy`.*RecurrentActorCriticPolicy"):
        export_policy(host, tmp_path / "policy.onnx")

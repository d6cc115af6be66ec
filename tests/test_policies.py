"""``ElmurPolicy`` as a policy of Stable-Baselines3: spaces, state, prediction, saving and errors."""

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.utils import obs_as_tensor, polyak_update
from torch import Tensor
from torch.utils._pytree import tree_leaves

import sb3_elmur
from helpers import ACTION_SPACES, SMALL, VECTOR, RandomEnv, make_policy
from sb3_elmur import ElmurCnnPolicy, ElmurMultiInputPolicy, ElmurPolicy, policies
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.encoders import FourLayerExtractor
from sb3_elmur.spaces import as_dict

IMAGE = spaces.Box(0, 255, (36, 36, 3), dtype=np.uint8)
SMALL_IMAGE = spaces.Box(0, 255, (7, 7, 3), dtype=np.uint8)


def run(policy: ElmurPolicy, observations: np.ndarray, starts: np.ndarray, how: str) -> tuple[list[np.ndarray], object]:
    """Deterministic actions over time, (T, B, ...) observations, by ``predict`` or by ``step``."""
    state, actions = None, []
    for observation, start in zip(observations, starts, strict=True):
        action, state = getattr(policy, how)(observation, state, start, deterministic=True)
        actions.append(action)
    return actions, state


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("separate_critic", [False, True])
def test_learns_on_every_action_space(action_space: spaces.Space, separate_critic: bool) -> None:
    env = RandomEnv(VECTOR, action_space)
    model = RecurrentPPO(
        "ElmurPolicy", env, n_steps=16, batch_size=8, policy_kwargs=SMALL | {"separate_critic": separate_critic}
    )
    before = model.policy.parameters_to_vector()
    model.learn(32)
    after = model.policy.parameters_to_vector()
    assert np.isfinite(after).all()
    assert (before != after).any()
    assert action_space.contains(model.predict(env.observation_space.sample())[0])


@pytest.mark.parametrize(
    ("name", "observation_space"),
    [
        ("ElmurPolicy", spaces.Discrete(4)),
        ("ElmurPolicy", spaces.MultiDiscrete([3, 2])),
        ("ElmurPolicy", spaces.MultiBinary(3)),
        ("ElmurCnnPolicy", IMAGE),
        ("ElmurMultiInputPolicy", spaces.Dict({"image": IMAGE, "vector": VECTOR, "task": spaces.Discrete(3)})),
    ],
)
def test_learns_on_every_observation_space(name: str, observation_space: spaces.Space) -> None:
    env = RandomEnv(observation_space, spaces.Discrete(2))
    model = RecurrentPPO(name, env, n_steps=8, batch_size=8, n_epochs=1, policy_kwargs=SMALL).learn(16)
    action, state = model.predict(env.observation_space.sample())
    assert env.action_space.contains(int(action))
    assert [part.shape[:2] for part in state] == [(1, 1), (1, 1)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"net_arch": [8]},
        {"net_arch": {"pi": [8], "vf": [4, 4]}},
        {"separate_critic": True, "share_features_extractor": False},
        {"ffn": "moe", "n_routed_experts": 3},
        {"norm_first": True, "norm": "rms", "ffn": "gelu"},
        {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}},
        {"ortho_init": False, "activation_fn": th.nn.ReLU, "log_std_init": -1.0},
        {"segment_length": 1, "memory_size": 1},
        {"dropout": 0.1, "attention_dropout": 0.1, "memory_dropout": 0.1},
    ],
    ids=str,
)
def test_policy_arguments_work_and_survive_saving_the_policy_alone(arguments: dict, tmp_path: Path) -> None:
    model = RecurrentPPO(
        "ElmurPolicy", RandomEnv(VECTOR, spaces.Box(-1, 1, (2,))), n_steps=8, batch_size=8, policy_kwargs=SMALL | arguments
    ).learn(8)
    model.policy.save(tmp_path / "policy.pt")
    loaded = ElmurPolicy.load(tmp_path / "policy.pt")
    observations = np.random.default_rng(0).uniform(-1, 1, (9, 2, 3)).astype(np.float32)
    starts = np.zeros((9, 2), bool)
    for saved, restored in zip(
        run(model.policy, observations, starts, "predict")[0], run(loaded, observations, starts, "predict")[0], strict=True
    ):
        assert (saved == restored).all()


def test_gsde_learns_and_saves(tmp_path: Path) -> None:
    env = RandomEnv(VECTOR, spaces.Box(-1, 1, (2,)))
    for squash in (False, True):
        model = RecurrentPPO(
            "ElmurPolicy", env, n_steps=16, batch_size=16, use_sde=True, sde_sample_freq=4,
            policy_kwargs=SMALL | {"squash_output": squash},
        ).learn(32)  # fmt: skip
        model.policy.save(tmp_path / "policy.pt")
        loaded = ElmurPolicy.load(tmp_path / "policy.pt")
        observation = np.ones((1, 3), np.float32)
        expected = model.predict(observation, deterministic=True)[0]
        assert (loaded.predict(observation, deterministic=True)[0] == expected).all()
        assert loaded.step(observation, deterministic=True)[0] == pytest.approx(expected, abs=1e-5)


def test_no_parameter_is_left_out_of_the_optimizer_and_no_lstm_is_built() -> None:
    policy = make_policy(VECTOR, spaces.Discrete(2), separate_critic=True)
    optimised = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in policy.parameters()}
    assert not any(isinstance(module, th.nn.LSTM) for module in policy.modules())


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_step_equals_predict(action_space: spaces.Space) -> None:
    policy = make_policy(VECTOR, action_space, norm_first=True)
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (30, 3, 3)).astype(np.float32)
    starts = rng.random((30, 3)) < 0.1
    predicted, _ = run(policy, observations, starts, "predict")
    stepped, _ = run(policy, observations, starts, "step")
    np.testing.assert_allclose(np.stack(predicted), np.stack(stepped), atol=1e-5)


def test_predict_notices_changed_arrays_and_weights() -> None:
    """Its caches are dropped when they no longer belong to what it is given."""
    policy = make_policy(VECTOR, spaces.Box(-9, 9, (2,)))
    observations = np.random.default_rng(0).uniform(-1, 1, (6, 2, 3)).astype(np.float32)
    _, state = run(policy, observations, np.zeros((6, 2), bool), "predict")
    plain = tuple(part.copy() for part in state)

    def act(given: object) -> np.ndarray:
        return policy.predict(observations[0], given, deterministic=True)[0]

    np.testing.assert_allclose(act(state), act(plain), atol=1e-5)
    state[0][:] = 0
    state[1][:] = 0
    np.testing.assert_allclose(act(state), act(None), atol=1e-6)
    _, state = run(policy, observations, np.zeros((6, 2), bool), "predict")
    with th.no_grad():
        for p in policy.parameters():
            p.add_(0.1)
    assert (act(state) == act(tuple(part.copy() for part in state))).all()
    _, state = run(policy, observations, np.zeros((6, 2), bool), "predict")
    policy.load_from_vector(policy.parameters_to_vector() + 0.1)
    assert (act(state) == act(tuple(part.copy() for part in state))).all()
    assert type(pickle.loads(pickle.dumps(state))) is tuple


def _fused_adam(policy: ElmurPolicy) -> None:
    for parameter in policy.parameters():
        parameter.grad = th.ones_like(parameter)
    policy.optimizer.step()


def _average(policy: ElmurPolicy) -> None:
    others = [th.randn_like(parameter) for parameter in policy.parameters()]
    polyak_update(others, policy.parameters(), 0.1)


def _one_weight(policy: ElmurPolicy) -> None:
    policy.backbone.core.layers[0].attention.qkv.weight.data[-1, -1] += 0.5


def _swapped_rows(policy: ElmurPolicy) -> None:
    weight = policy.backbone.core.layers[0].token_ffn.down.weight.data
    weight.copy_(weight.flip(0))


def _turned_signs(policy: ElmurPolicy) -> None:
    policy.backbone.core.layers[1].read.key_value.weight.data.neg_()


@pytest.mark.parametrize(
    ("core", "change"),
    [("elmur", change) for change in (_fused_adam, _average, _one_weight, _swapped_rows, _turned_signs)]
    + [("lstm", change) for change in (_fused_adam, _average)],
)
def test_predict_notices_weights_that_were_changed_in_any_way(core: str, change: Callable[[ElmurPolicy], None]) -> None:
    policy = make_policy(VECTOR, spaces.Box(-9, 9, (2,)), core=core, log_std_init=-9.0)
    observations = np.random.default_rng(0).uniform(-1, 1, (7, 2, 3)).astype(np.float32)
    _, state = run(policy, observations, np.zeros((7, 2), bool), "predict")
    plain = tuple(part.copy() for part in state)
    change(policy)
    expected, _ = policy.predict(observations[0], plain, deterministic=True)
    np.testing.assert_allclose(policy.predict(observations[0], state, deterministic=True)[0], expected, atol=1e-6)


def test_predict_keeps_its_caches_while_nothing_changes() -> None:
    policy = make_policy(VECTOR, spaces.Discrete(2))
    observation = np.ones((2, 3), np.float32)
    _, state = policy.predict(observation)
    _, state = policy.predict(observation, state)
    assert state.live(policy.backbone.fingerprint()) is not None


def test_a_model_loaded_in_inference_mode_acts(tmp_path: Path) -> None:
    model = RecurrentPPO("ElmurPolicy", RandomEnv(VECTOR, spaces.Discrete(2)), n_steps=8, batch_size=8, policy_kwargs=SMALL)
    model.save(tmp_path / "model")
    with th.inference_mode():
        loaded = RecurrentPPO.load(tmp_path / "model")
    state = expected_state = None
    observation = np.ones((2, 3), np.float32)
    for i in range(5):
        with th.inference_mode(i == 0):
            action, state = loaded.predict(observation, state, deterministic=True)
        expected, expected_state = model.predict(observation, expected_state, deterministic=True)
        np.testing.assert_array_equal(action, expected)


@pytest.mark.parametrize(("action_space", "use_sde"), [*((space, False) for space in ACTION_SPACES), (ACTION_SPACES[1], True)])
def test_a_policy_is_copied_right_after_training(action_space: spaces.Space, use_sde: bool) -> None:
    env = RandomEnv(VECTOR, action_space)
    model = RecurrentPPO("ElmurPolicy", env, n_steps=8, batch_size=8, use_sde=use_sde, policy_kwargs=SMALL).learn(8)
    observation = np.ones((2, 3), np.float32)
    expected, _ = model.policy.predict(observation, deterministic=True)
    assert np.array_equal(copy.deepcopy(model.policy).predict(observation, deterministic=True)[0], expected)


@pytest.mark.parametrize("convert", [lambda part: part.tolist(), th.as_tensor, list], ids=["lists", "tensors", "rows"])
def test_a_state_may_be_of_lists_or_tensors(convert: Callable[[np.ndarray], object]) -> None:
    policy = make_policy(VECTOR, spaces.Box(-9, 9, (2,)))
    observation = np.ones((2, 3), np.float32)
    _, state = policy.predict(observation)
    expected, _ = policy.predict(observation, state, deterministic=True)
    action, _ = policy.predict(observation, [convert(part) for part in state], deterministic=True)
    np.testing.assert_allclose(action, expected, atol=1e-6)


@pytest.mark.parametrize("how", ["predict", "step"])
def test_one_environment_may_have_one_flag(how: str) -> None:
    policy = make_policy(VECTOR, spaces.Box(-9, 9, (2,)))
    act, observation = getattr(policy, how), np.ones(3, np.float32)
    expected, state = act(observation, deterministic=True)
    for start in (True, np.True_, np.array(True)):
        np.testing.assert_allclose(act(observation, state, start, deterministic=True)[0], expected, atol=1e-6)


def test_what_reset_of_gymnasium_returns_is_refused_with_a_hint() -> None:
    policy = make_policy(VECTOR, spaces.Discrete(2))
    with pytest.raises(ValueError, match="mixing Gym API"):
        policy.predict(RandomEnv(VECTOR, spaces.Discrete(2)).reset())


def test_observations_of_no_environment_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`observation`.*\(0, 3\)"):
        make_policy(VECTOR, spaces.Discrete(2)).predict(np.zeros((0, 3), np.float32))


def test_an_algorithm_without_recurrent_state_is_refused() -> None:
    with pytest.raises(TypeError, match=r"sb3_elmur\.RecurrentPPO"):
        PPO(ElmurPolicy, RandomEnv(VECTOR, spaces.Discrete(2)), n_steps=8, batch_size=8, policy_kwargs=SMALL).learn(8)


def test_squashed_actions_of_other_bounds_are_refused_under_the_unmodified_class() -> None:
    env = RandomEnv(VECTOR, spaces.Box(0, 10, (1,)))
    kwargs = SMALL | {"squash_output": True}
    model = RecurrentPPO("ElmurPolicy", env, n_steps=8, batch_size=8, use_sde=True, policy_kwargs=kwargs)
    with pytest.raises(ValueError, match=r"`squash_output=True`.*sb3_elmur\.RecurrentPPO"):
        model.learn(8)


@pytest.mark.parametrize(
    ("policy", "space"), [("ElmurCnnPolicy", SMALL_IMAGE), ("ElmurMultiInputPolicy", spaces.Dict({"image": SMALL_IMAGE}))]
)
def test_images_that_are_too_small_for_the_extractor_are_refused_with_one_that_takes_them(
    policy: str, space: spaces.Space
) -> None:
    with pytest.raises(ValueError, match=r"`features_extractor_class`.*FourLayer"):
        RecurrentPPO(policy, RandomEnv(space, spaces.Discrete(2)), policy_kwargs=SMALL)


def test_help_and_signature_know_all_hyper_parameters() -> None:
    names = {field.name for field in dataclasses.fields(ElmurConfig)}
    for cls in (ElmurPolicy, ElmurCnnPolicy, ElmurMultiInputPolicy):
        assert names <= set(inspect.signature(cls).parameters)
    assert all(f":param {name}:" in (ElmurPolicy.__doc__ or "") for name in names)


def test_predict_leaves_the_state_that_it_receives_as_it_is() -> None:
    policy = make_policy(VECTOR, spaces.Discrete(2))
    _, state = policy.predict(np.ones((2, 3), np.float32))
    copy = [part.copy() for part in state]
    policy.predict(np.zeros((2, 3), np.float32), state, np.array([True, False]))
    assert all(map(np.array_equal, state, copy))
    assert all(part.dtype == np.float32 for part in state)


def test_none_zeros_and_a_start_flag_are_the_same_state() -> None:
    policy = make_policy(VECTOR, spaces.Box(-1, 1, (2,)))
    observation = np.ones((2, 3), np.float32)
    _, used = policy.predict(observation)
    zeros = tuple(np.zeros_like(part) for part in used)
    first, after = policy.predict(observation, deterministic=True)
    for state, start in ((zeros, None), (zeros, [False] * 2), (used, np.array([True, True]))):
        action, after_other = policy.predict(observation, state, start, deterministic=True)
        np.testing.assert_allclose(action, first, atol=1e-6)
        np.testing.assert_allclose(np.stack(after), np.stack(after_other), atol=1e-6)


def test_prediction_depends_on_what_lies_segments_ago() -> None:
    policy = make_policy(VECTOR, spaces.Box(-9, 9, (2,)))
    observations = np.zeros((3 * SMALL["segment_length"], 2, 3), np.float32)
    observations[0, 0] = 1
    actions, _ = run(policy, observations, np.zeros((len(observations), 2), bool), "predict")
    assert (actions[-1][0] != actions[-1][1]).any()


def test_one_unbatched_environment_is_a_batch_of_one() -> None:
    policy = make_policy(VECTOR, spaces.Box(-1, 1, (2,)))
    observation = np.ones(3, np.float32)
    for how in (policy.predict, policy.step):
        action, state = how(observation, deterministic=True)
        batched, _ = how(observation[None], deterministic=True)
        assert action.shape == (2,)
        assert (action == batched[0]).all()
        how(observation, state)


def test_model_survives_saving_with_another_number_of_environments(tmp_path: Path) -> None:
    env = RandomEnv(VECTOR, spaces.Discrete(3))
    model = RecurrentPPO("ElmurPolicy", env, n_steps=8, batch_size=8, policy_kwargs=SMALL).learn(16)
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model")
    observations = np.random.default_rng(0).uniform(-1, 1, (9, 2, 3)).astype(np.float32)
    starts = np.zeros((9, 2), bool)
    assert np.array_equal(
        run(model.policy, observations, starts, "predict")[0], run(loaded.policy, observations, starts, "predict")[0]
    )

    more = RecurrentPPO.load(tmp_path / "model", env=make_vec_env(lambda: RandomEnv(VECTOR, spaces.Discrete(3)), 3))
    more.learn(24, reset_num_timesteps=False)
    assert more.num_timesteps == model.num_timesteps + 24


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"bptt_segments": 4},
            TypeError,
            "ElmurPolicy has no argument `bptt_segments`. It is an argument of sb3_elmur.RecurrentPPO",
        ),
        (
            {"lstm_hidden_size": 64},
            TypeError,
            "ElmurPolicy has no argument `lstm_hidden_size`. It belongs to sb3-contrib's LSTM",
        ),
        ({"shared_lstm": True}, TypeError, "no argument `shared_lstm`"),
        ({"enable_critic_lstm": True}, TypeError, "no argument `enable_critic_lstm`"),
        ({"d_modle": 64}, TypeError, "no argument `d_modle`. Did you mean `d_model`?"),
        ({"xyz": 1}, TypeError, "no argument `xyz`. Known arguments: .*d_model"),
        ({"memory_size": -1}, ValueError, "`memory_size` must be an integer of at least 0. Received -1."),
        ({"detach_memory": 2}, ValueError, "`detach_memory` must be True or False. Received 2."),
        ({"ortho_init": "x"}, ValueError, "`ortho_init` must be True or False. Received 'x'."),
        ({"net_arch": [0]}, ValueError, "`net_arch` must be an integer of at least 1. Received 0."),
        ({"net_arch": {"p": [3]}}, ValueError, "`net_arch` must be a list of widths, or map 'pi' and 'vf'"),
        ({"net_arch": {"pi": 3}}, ValueError, "`net_arch` must be a list of widths, or map 'pi' and 'vf'"),
        ({"net_arch": "abc"}, ValueError, "`net_arch` must be a list of widths, .* Received 'abc'"),
        ({"memory_size": 2**62}, ValueError, "`memory_size` must be an integer of at most 1099511627776."),
        ({"squash_output": True}, ValueError, "`squash_output=True` needs `use_sde=True`, an argument of the algorithm."),
        (
            {"features_extractor_class": NatureCNN},
            ValueError,
            r"`features_extractor_class` must take Box.* Received NatureCNN: .*\. ElmurPolicy takes vectors",
        ),
        ({"share_features_extractor": False}, ValueError, "`share_features_extractor=False` needs `separate_critic=True`."),
    ],
)
def test_wrong_policy_arguments_are_refused(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RecurrentPPO("ElmurPolicy", RandomEnv(VECTOR, spaces.Discrete(2)), policy_kwargs=arguments)


class HandingPolicy(ElmurPolicy):
    """A policy of a user's, which hands arguments on."""

    def __init__(self, *arguments: Any, extra: int = 0, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.extra = extra


class OwnExtractorPolicy(ElmurMultiInputPolicy):
    """A policy for Dict observations with a features extractor of its own."""

    default_features_extractor_class = FourLayerExtractor


def test_a_policy_may_hand_arguments_on_to_its_base_class(tmp_path: Path) -> None:
    env = RandomEnv(VECTOR, spaces.Discrete(2))
    model = sb3_elmur.RecurrentPPO(HandingPolicy, env, policy_kwargs={"extra": 3, "memory_size": 5})
    model.save(tmp_path / "model")
    loaded = sb3_elmur.RecurrentPPO.load(tmp_path / "model")
    assert (loaded.policy.extra, loaded.policy.config.memory_size) == (3, 5)
    with pytest.raises(TypeError, match=r"HandingPolicy has no argument `arguments`. .*extra.*d_model"):
        sb3_elmur.RecurrentPPO(HandingPolicy, env, policy_kwargs={"arguments": 1})


def test_a_policy_for_dict_observations_may_have_an_extractor_of_its_own() -> None:
    space = spaces.Dict({"camera": IMAGE, "joints": VECTOR})
    policy = sb3_elmur.RecurrentPPO(OwnExtractorPolicy, RandomEnv(space, spaces.Discrete(2))).policy
    assert isinstance(policy.features_extractor, FourLayerExtractor)
    with pytest.raises(ValueError, match="OwnExtractorPolicy does not take Box observations"):
        sb3_elmur.RecurrentPPO(OwnExtractorPolicy, RandomEnv(VECTOR, spaces.Discrete(2)))


@pytest.mark.parametrize("how", ["predict", "step"])
def test_observations_that_are_not_finite_are_refused(how: str) -> None:
    policy = make_policy(VECTOR, spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"`observation`.* nan .*\(1, 2\)"):
        getattr(policy, how)(np.array([[0, 0, 0], [0, 0, np.nan]], np.float32))
    space = spaces.Dict({"a": VECTOR, "b": spaces.Discrete(2)})
    policy = make_policy(space, spaces.Discrete(2), cls=ElmurMultiInputPolicy)
    with pytest.raises(ValueError, match=r"`a`.* inf .*\(0,\)"):
        getattr(policy, how)({"a": np.array([np.inf, 0, 0], np.float32), "b": np.array(1)})


@pytest.mark.parametrize("how", ["predict", "step"])
def test_a_state_or_start_that_does_not_fit_is_refused(how: str) -> None:
    policy = make_policy(VECTOR, spaces.Discrete(2))
    act, three = getattr(policy, how), np.zeros((3, 3), np.float32)
    _, state = act(three[:2])
    _, foreign = getattr(policy, {"predict": "step", "step": "predict"}[how])(three)
    with pytest.raises(ValueError, match=rf"`state`.*`{how}`.* 3 environment"):
        act(three, state)
    for wrong in (foreign, foreign[:1]):
        with pytest.raises(ValueError, match=f"`state`.*`{how}`"):
            act(three, wrong)
    with pytest.raises(ValueError, match=f"`state`.*`{how}`.*Received"):
        act(three, 3)
    for start in (np.ones(2), np.ones(0), np.ones((3, 1)), np.True_, np.ones(6)):
        with pytest.raises(ValueError, match=r"`episode_start` must have the shape \(3,\)\. Received"):
            act(three, None, start)


def test_observations_beyond_float32_are_refused() -> None:
    policy = make_policy(spaces.Box(-np.inf, np.inf, (2,), dtype=np.float64), spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"float32.* 1e\+300"):
        policy.predict(np.array([0, 1e300]))


def test_the_wrong_policy_for_a_space_says_what_to_do() -> None:
    space = spaces.Dict({"a": VECTOR})
    with pytest.raises(ValueError, match=r"ElmurPolicy.* Dict .*ElmurMultiInputPolicy"):
        RecurrentPPO("ElmurPolicy", RandomEnv(space, spaces.Discrete(2)))
    with pytest.raises(ValueError, match=r"ElmurMultiInputPolicy.* Box .*ElmurPolicy"):
        RecurrentPPO("ElmurMultiInputPolicy", RandomEnv(VECTOR, spaces.Discrete(2)))
    with pytest.raises(ValueError, match=r"NatureCNN: .*only with images.*ElmurPolicy takes vectors"):
        RecurrentPPO("ElmurCnnPolicy", RandomEnv(VECTOR, spaces.Discrete(2)))


def test_names_are_aliases_of_the_host() -> None:
    for cls in (ElmurPolicy, ElmurCnnPolicy, ElmurMultiInputPolicy):
        assert RecurrentPPO.policy_aliases[cls.__name__] is cls


@pytest.mark.parametrize("space", [VECTOR, spaces.Dict({"left": VECTOR, "right": VECTOR})], ids=["Box", "Dict"])
def test_states_are_made_anew_from_parts_of_the_observations(space: spaces.Space, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(space, ACTION_SPACES[0], ElmurMultiInputPolicy if isinstance(space, spaces.Dict) else ElmurPolicy)
    observations = batch_space(space, 4 * 5).sample()
    obs, lengths = obs_as_tensor(observations, "cpu"), th.tensor([5, 0, 3, 4])
    whole = policy.reopen(obs, policy.initial_memories(4), lengths)
    rows, extract = [], policy._features

    def note(part: Any) -> tuple[Tensor, Tensor]:
        rows.append(len(next(iter(as_dict(part).values()))))
        return extract(part)

    monkeypatch.setattr(policy, "_features", note)
    monkeypatch.setattr(policies, "ROWS_AT_ONCE", 7)
    parts = policy.reopen(obs, policy.initial_memories(4), lengths)
    assert rows == [7, 7, 6]
    for left, right in zip(tree_leaves(whole), tree_leaves(parts), strict=True):
        th.testing.assert_close(left, right)

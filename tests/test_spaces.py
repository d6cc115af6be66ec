"""Spaces: what policies take, what they refuse when they are built, and discrete values that do not begin at 0."""

from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces

from helpers import VECTOR, make_model, make_policy, random_envs
from sb3_elmur import ElmurMultiInputPolicy, ElmurPolicy, RecurrentPPO
from sb3_elmur.spaces import as_dict, map_observations

SHIFTED_ACTIONS = [spaces.Discrete(3, start=-1), spaces.MultiDiscrete([2, 3], start=[1, -5])]
SHIFTED_OBSERVATIONS = [
    spaces.Discrete(4, start=2),
    spaces.MultiDiscrete([2, 3], start=[1, -5]),
    spaces.Dict({"a": spaces.Discrete(4, start=-7), "b": VECTOR}),
]
both_ppos = pytest.mark.parametrize("cls", [sb3_contrib.RecurrentPPO, RecurrentPPO], ids=["unmodified", "segment-wise"])


@both_ppos
@pytest.mark.parametrize("space", SHIFTED_ACTIONS, ids=str)
def test_actions_lie_in_a_space_that_does_not_begin_at_0(cls: type, space: spaces.Space) -> None:
    """The environments of the tests refuse others."""
    model = make_model(cls, random_envs(2, action_space=space)).learn(64)
    for how in (model.policy.predict, model.policy.step):
        actions, _ = how(np.zeros((20, 3), np.float32))
        assert all(space.contains(action) for action in actions)


@both_ppos
@pytest.mark.parametrize("space", SHIFTED_OBSERVATIONS, ids=str)
def test_observations_of_a_space_that_does_not_begin_at_0_are_told_apart(cls: type, space: spaces.Space) -> None:
    name = "ElmurMultiInputPolicy" if isinstance(space, spaces.Dict) else "ElmurPolicy"
    policy = make_model(cls, random_envs(2, space), name).learn(64).policy
    space.seed(0)
    samples = [space.sample() for _ in range(20)]
    features = [policy.actor_features(policy.obs_to_tensor(sample)[0]) for sample in samples]
    for first, one in zip(samples, features, strict=True):
        for second, other in zip(samples, features, strict=True):
            same = all(np.array_equal(as_dict(first)[key], as_dict(second)[key]) for key in as_dict(first))
            assert th.equal(one, other) == same


@pytest.mark.parametrize(
    ("space", "wrong"), [(spaces.Discrete(3, start=5), 99), (spaces.MultiDiscrete([2, 3], start=[1, -5]), [1, 7])]
)
def test_observations_outside_of_their_space_are_refused(space: spaces.Space, wrong: Any) -> None:
    policy = make_policy(space, spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"must lie in their space, from .*Received"):
        policy.predict(np.array(wrong))


def test_the_first_value_of_an_observation_is_the_first_feature() -> None:
    policy = make_policy(spaces.Discrete(4, start=2), spaces.Discrete(2))
    features = policy.actor_features(th.tensor([2, 5]))
    assert features.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("space", SHIFTED_ACTIONS, ids=str)
def test_log_probabilities_are_those_of_the_same_actions_counted_from_0(space: Any) -> None:
    at_zero = spaces.Discrete(3) if isinstance(space, spaces.Discrete) else spaces.MultiDiscrete(space.nvec)
    log_probs = []
    for action_space in (at_zero, space):
        th.manual_seed(0)
        model = make_model(sb3_contrib.RecurrentPPO, random_envs(2, action_space=action_space))
        model.learn(32)
        log_probs.append(model.rollout_buffer.log_probs)
    np.testing.assert_array_equal(*log_probs)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)], ids=str)
def test_continuous_actions_have_the_shape_of_their_space(shape: tuple[int, ...]) -> None:
    space = spaces.Box(-1, 1, shape)
    model = make_model(RecurrentPPO, random_envs(2, action_space=space)).learn(32)
    action, _ = model.predict(np.zeros(3, np.float32))
    assert np.shape(action) == shape


@pytest.mark.parametrize(
    ("observation_space", "action_space", "name"),
    [
        (VECTOR, spaces.Box(0, 5, (2,), np.int64), "action_space"),
        (VECTOR, spaces.Box(-1, 1, (0,)), "action_space"),
        (VECTOR, spaces.MultiDiscrete([[2, 3], [2, 2]]), "action_space"),
        (VECTOR, spaces.MultiBinary([2, 2]), "action_space"),
        (spaces.Box(-1, 1, ()), spaces.Discrete(2), "observation_space"),
        (spaces.Box(-1, 1, (0,)), spaces.Discrete(2), "observation_space"),
        (spaces.Box(-1, 1, (2, 0)), spaces.Discrete(2), "observation_space"),
        (spaces.MultiDiscrete([[2, 3], [2, 2]]), spaces.Discrete(2), "observation_space"),
        (spaces.Dict({"a.b": VECTOR}), spaces.Discrete(2), "observation_space"),
        (spaces.Dict({"items": VECTOR}), spaces.Discrete(2), "observation_space"),
        (spaces.Dict({"a": spaces.Box(-1, 1, ())}), spaces.Discrete(2), "'a'"),
        (spaces.Dict({}), spaces.Discrete(2), "observation_space"),
    ],
    ids=str,
)
def test_other_spaces_are_refused_when_the_policy_is_built(
    observation_space: spaces.Space, action_space: spaces.Space, name: str
) -> None:
    cls = ElmurMultiInputPolicy if isinstance(observation_space, spaces.Dict) else ElmurPolicy
    with pytest.raises(ValueError, match=rf"{name}.*Received"):
        make_policy(observation_space, action_space, cls)


@pytest.mark.parametrize("observation_space", [spaces.Box(0, 9, (3,), np.int32), spaces.MultiBinary([2, 2])], ids=str)
def test_whole_numbers_and_flags_are_observed(observation_space: spaces.Space) -> None:
    policy = make_model(RecurrentPPO, random_envs(2, observation_space)).learn(32).policy
    observation = observation_space.sample()
    features = policy.actor_features(policy.obs_to_tensor(observation)[0])
    np.testing.assert_array_equal(features.detach()[0], observation.flatten())


def test_arrays_are_handed_to_the_function() -> None:
    assert map_observations(np.add, np.ones(2), np.full(2, 3)).tolist() == [4, 4]


def test_dictionaries_are_taken_entry_by_entry() -> None:
    first, second = {"a": np.ones(1), "b": np.zeros(2)}, {"b": np.ones(2), "a": np.ones(1)}
    total = map_observations(np.add, first, second)
    assert list(total) == ["a", "b"]
    assert total["a"].tolist() == [2]
    assert total["b"].tolist() == [1, 1]


def test_several_observations_are_stacked_into_a_batch() -> None:
    rows = [{"a": np.array([i])} for i in range(3)]
    assert map_observations(lambda *arrays: np.stack(arrays), *rows)["a"].tolist() == [[0], [1], [2]]

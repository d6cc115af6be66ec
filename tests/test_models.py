"""A model runs with another number of slots."""

from pathlib import Path

import pytest
import torch as th

from helpers import make_model, random_envs
from sb3_elmur import RecurrentPPO, resize_memory


@pytest.mark.parametrize("memory_size", [1, 2, 5])
def test_a_resized_model_keeps_weights_and_first_slots_and_trains_on(memory_size: int, tmp_path: Path) -> None:
    model = make_model(RecurrentPPO, random_envs(2), policy_kwargs={"separate_critic": True}).learn(64)
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


def test_added_slots_are_always_the_same() -> None:
    model = make_model(RecurrentPPO, random_envs(1))
    one, two = resize_memory(model, 6), resize_memory(model, 6)
    assert th.equal(one.policy.backbone.core.initial_slots, two.policy.backbone.core.initial_slots)


@pytest.mark.parametrize("memory_size", [0, 1.5, True])
def test_a_wrong_number_of_slots_is_refused(memory_size: float) -> None:
    with pytest.raises(ValueError, match="`memory_size` must be an integer of at least 1"):
        resize_memory(make_model(RecurrentPPO, random_envs(1)), memory_size)  # type: ignore[arg-type]


def test_a_model_without_slots_is_refused() -> None:
    model = make_model(RecurrentPPO, random_envs(1), policy_kwargs={"core": "gru"})
    with pytest.raises(ValueError, match=r"must have memory slots\. Received core='gru'"):
        resize_memory(model, 2)

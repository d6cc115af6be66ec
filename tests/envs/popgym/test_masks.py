"""The option ``mask_tried`` of POPGym's search tasks."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import DummyVecEnv

from helpers import make_model
from sb3_elmur import RecurrentPPO
from sb3_elmur.envs import POPGymEnv, POPGymVecEnv
from sb3_elmur.envs.batch import make_batch

searches = pytest.mark.parametrize("task", ["BattleshipEasy", "MineSweeperMedium", "ConcentrationHard"])
batched_searches = pytest.mark.parametrize("task", ["BattleshipEasy", "ConcentrationHard"])


@pytest.fixture(autouse=True)
def popgym() -> None:
    for name in ("popgym", "mazelib"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'sb3-elmur[popgym]'")


@searches
def test_there_are_no_masks_unless_asked_for(task: str) -> None:
    env = gymnasium.make(f"POPGym{task}-v0")
    assert not is_masking_supported(env)
    assert not is_masking_supported(make_batch(f"POPGym{task}-v0", 2))


@pytest.mark.parametrize("task", ["BattleshipEasy", "MineSweeperMedium"])
def test_a_cell_is_uncovered_once(task: str) -> None:
    env = POPGymEnv(task, mask_tried=True)
    env.reset(seed=0)
    tried: set[int] = set()
    ended = False
    while not ended:
        masks = env.action_masks()
        assert set(np.flatnonzero(~masks).tolist()) == tried
        action = int(np.flatnonzero(masks)[-1])
        tried.add(action)
        _, _, terminated, truncated, _ = env.step(action)
        ended = terminated or truncated


def test_a_card_can_be_turned_over_again_when_it_lies_face_down() -> None:
    env = POPGymEnv("ConcentrationHard", mask_tried=True)
    env.reset(seed=0)
    for pair in ((0, 1), (0, 2), (0, 3)):
        assert env.action_masks().all()
        env.step(pair[0])
        assert np.flatnonzero(~env.action_masks()).tolist() == [0]
        env.step(pair[1])


def test_a_pair_that_was_found_cannot_be_turned_over_again() -> None:
    env = POPGymEnv("ConcentrationEasy", mask_tried=True)
    env.reset(seed=0)
    values = env.base.deck_idx_type[env.base.deck.idx]
    pair = [0, 1 + int(np.argmax(values[1:] == values[0]))]
    for card in pair:
        env.step(card)
    assert np.flatnonzero(~env.action_masks()).tolist() == pair


@batched_searches
def test_the_batchs_masks_are_those_of_single_environments(task: str) -> None:
    batch = POPGymVecEnv(3, task, seed=5, mask_tried=True)
    singles = DummyVecEnv([lambda: POPGymEnv(task, mask_tried=True)] * 3)
    singles.seed(5)
    generator = np.random.default_rng(0)
    for env in (batch, singles):
        env.reset()
    for time in range(300):
        masks = get_action_masks(singles)
        np.testing.assert_array_equal(get_action_masks(batch), masks)
        if time < 150:  # then what was tried is tried again
            actions = np.array([generator.choice(np.flatnonzero(mask)) for mask in masks])
        else:
            actions = generator.integers(masks.shape[1], size=3)
        for env in (batch, singles):
            env.step(actions)


@batched_searches
def test_a_native_batch_is_made_with_masks(task: str) -> None:
    batch = make_batch(f"POPGym{task}-v0", 2, {"mask_tried": True})
    assert isinstance(batch, POPGymVecEnv)
    assert is_masking_supported(batch)


def test_other_tasks_refuse_masks() -> None:
    for make in (POPGymEnv, lambda task, **arguments: POPGymVecEnv(1, task, **arguments)):
        with pytest.raises(ValueError, match=r"`mask_tried`.*RepeatFirst"):
            make("RepeatFirstEasy", mask_tried=True)


@searches
def test_a_model_trains_and_never_tries_twice(task: str) -> None:
    env = make_batch(f"POPGym{task}-v0", 2, {"mask_tried": True})
    tried = []
    step_async = env.step_async

    def watched(actions: np.ndarray) -> None:
        tried.append(get_action_masks(env)[np.arange(2), actions].all())
        step_async(actions)

    env.step_async = watched  # type: ignore[method-assign]
    make_model(RecurrentPPO, env).learn(64)
    assert len(tried) == 32
    assert all(tried)

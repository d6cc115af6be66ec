"""Action masks: no invalid action is ever taken, and PPO replays the distribution that it acted with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from mask_helpers import MASKED_SPACES, MaskedEnv, to_flags
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked_as_the_host
from stable_baselines3.common.distributions import make_proba_distribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from helpers import make_model
from sb3_elmur import RecurrentPPO
from sb3_elmur.evaluation import run_episodes
from sb3_elmur.masks import check_masks, get_action_masks, masked_distribution, sample_valid
from sb3_elmur.training.trust_region import rollout_kl

every_space = pytest.mark.parametrize("action_space", MASKED_SPACES, ids=str)


def masked_envs(action_space: spaces.Space, n_envs: int = 3, **arguments: Any) -> VecEnv:
    return make_vec_env(lambda: MaskedEnv(action_space, **arguments), n_envs, seed=0)


def outputs_and_masks(action_space: spaces.Space, n_rows: int = 50) -> tuple[th.Tensor, np.ndarray]:
    generator = np.random.default_rng(0)
    n_outputs = make_proba_distribution(action_space).proba_distribution_net(2).out_features
    env = MaskedEnv(action_space)
    env.reset(seed=0)
    masks = np.stack([env._masks for _ in range(n_rows) if env._observe() is not None])
    return th.as_tensor(generator.normal(size=(n_rows, n_outputs)), dtype=th.float32), masks


@every_space
def test_with_all_actions_valid_the_distribution_is_the_unmasked_one(action_space: spaces.Space) -> None:
    outputs, masks = outputs_and_masks(action_space)
    plain: Any = make_proba_distribution(action_space).proba_distribution(action_logits=outputs)
    masked = masked_distribution(action_space, outputs, np.ones_like(masks))
    actions = plain.sample()
    th.testing.assert_close(masked.log_prob(actions), plain.log_prob(actions))
    th.testing.assert_close(masked.entropy(), plain.entropy())
    assert (masked.mode() == plain.mode()).all()


@every_space
def test_what_is_sampled_is_valid(action_space: spaces.Space) -> None:
    outputs, masks = outputs_and_masks(action_space)
    distribution = masked_distribution(action_space, outputs, masks)
    for actions in (*(distribution.sample() for _ in range(20)), distribution.mode()):
        for action, mask in zip(actions + int(np.min(getattr(action_space, "start", 0))), masks, strict=True):
            assert mask[to_flags(action_space, action)].all()


def test_a_rollout_predict_and_evaluation_take_no_invalid_action() -> None:
    steps = rollout_predict_and_evaluation(MASKED_SPACES[2], 600)
    assert steps >= 600


@pytest.mark.slow
@every_space
def test_no_invalid_action_is_taken_in_many_steps(action_space: spaces.Space) -> None:
    assert rollout_predict_and_evaluation(action_space, 25_000) >= 25_000


def rollout_predict_and_evaluation(action_space: spaces.Space, n_steps: int) -> int:
    """A third of the steps each; the environment raises an error at an invalid action. Returns the steps taken."""
    env = masked_envs(action_space, n_envs=8)
    model = make_model(RecurrentPPO, env, n_epochs=1).learn(n_steps // 3)
    steps = model.num_timesteps
    obs, state, starts = env.reset(), None, np.ones(8, dtype=bool)
    for time in range(n_steps // 24):
        actions, state = model.predict(obs, state, starts, time % 2 == 0, action_masks=get_action_masks(env))
        obs, _, starts, _ = env.step(actions)
        steps += 8
    while steps < n_steps:
        steps += int(sum(episode["length"] for episode in run_episodes(model.policy, env, steps, deterministic=False)))
    return steps


def minibatches_ratio(model: RecurrentPPO) -> th.Tensor:
    """Of the first epoch, before any update."""
    ratios = []
    for data in model.rollout_buffer.get(16):
        actions = data.actions.long().flatten() if isinstance(model.action_space, spaces.Discrete) else data.actions
        with th.no_grad():
            _, log_prob, _ = model.policy.evaluate_actions(data.observations, actions, data.lstm_states, data.episode_starts)
        ratios.append((log_prob - data.old_log_prob).exp())
    return th.cat(ratios)


@every_space
def test_the_first_ratio_is_1(action_space: spaces.Space) -> None:
    model = make_model(RecurrentPPO, masked_envs(action_space), n_epochs=1, learning_rate=0.0, averaging=0.0).learn(96)
    assert model.rollout_buffer.action_masks is not None
    ratio = minibatches_ratio(model)
    th.testing.assert_close(ratio, th.ones_like(ratio), rtol=1e-4, atol=1e-4)


def test_without_masks_in_the_replay_the_first_ratio_is_not_1() -> None:
    model = make_model(RecurrentPPO, masked_envs(MASKED_SPACES[0]), n_epochs=1, learning_rate=0.0).learn(96)
    model.rollout_buffer.action_masks = None
    assert minibatches_ratio(model).mean() < 0.9


def test_the_trust_region_measures_no_divergence_before_an_update() -> None:
    model = make_model(RecurrentPPO, masked_envs(MASKED_SPACES[0]), n_epochs=1, learning_rate=0.0, averaging=0.0).learn(48)
    assert abs(rollout_kl(model)) < 1e-8
    model.rollout_buffer.action_masks = None
    assert rollout_kl(model) > 0.01


def test_masks_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`action_masks`.*\(2, 6\).*\(2, 5\)"):
        check_masks(np.ones((2, 5)), spaces.Discrete(6), 2)


def test_masks_that_leave_no_choice_are_refused() -> None:
    masks = np.ones((2, 7), dtype=bool)
    masks[1, 3:] = False
    with pytest.raises(ValueError, match=r"`action_masks`.*entry 1 .* row 1"):
        check_masks(masks, spaces.MultiDiscrete([3, 4]), 2)


def test_masks_of_continuous_actions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`action_masks`.*Box"):
        check_masks(np.ones((1, 2)), spaces.Box(-1, 1, (2,)), 1)


@every_space
def test_a_random_action_is_a_valid_element_of_the_space(action_space: spaces.Space) -> None:
    _, masks = outputs_and_masks(action_space)
    for mask in masks:
        action = sample_valid(action_space, mask)
        assert action_space.contains(action)
        assert mask[to_flags(action_space, action)].all()


def test_a_lost_recurrent_state_is_noticed() -> None:
    """sb3-contrib's evaluation with masks gives no state back."""
    env = masked_envs(MASKED_SPACES[0])
    model = make_model(RecurrentPPO, env)
    with pytest.raises(ValueError, match=r"`state`.*None"):
        evaluate_masked_as_the_host(model, env)


def test_step_takes_the_masks_that_predict_takes() -> None:
    env = masked_envs(MASKED_SPACES[2])
    model = make_model(RecurrentPPO, env)
    obs, starts, state, pair = env.reset(), np.ones(3, dtype=bool), None, None
    for _ in range(10):
        masks = get_action_masks(env)
        actions, state = model.policy.step(obs, state, starts, True, action_masks=masks)
        expected, pair = model.predict(obs, pair, starts, True, action_masks=masks)
        np.testing.assert_array_equal(actions, expected)
        obs, _, starts, _ = env.step(actions)


def test_masking_can_be_switched_off() -> None:
    model = make_model(RecurrentPPO, masked_envs(MASKED_SPACES[0]))
    with pytest.raises(AssertionError, match="invalid"):
        model.learn(48, use_masking=False)


def test_masks_do_not_outlive_the_rollout() -> None:
    model = make_model(RecurrentPPO, masked_envs(MASKED_SPACES[0])).learn(48)
    model.rollout_buffer.reset()
    assert model.rollout_buffer.action_masks is None


def test_a_trained_model_loads_and_acts_with_masks(tmp_path: Path) -> None:
    env = masked_envs(MASKED_SPACES[3])
    model = make_model(RecurrentPPO, env).learn(48)
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model", env=env)
    obs, masks = env.reset(), get_action_masks(env)
    expected, _ = model.predict(obs, deterministic=True, action_masks=masks)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True, action_masks=masks)[0], expected)
    loaded.learn(48)

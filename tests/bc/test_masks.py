"""Behaviour cloning with action masks: the loss is that of the masked distribution, and the clone takes valid actions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from mask_helpers import MASKED_SPACES, MaskedEnv, to_flags
from stable_baselines3.common.distributions import make_proba_distribution
from stable_baselines3.common.env_util import make_vec_env

from cloning_helpers import MadeEpisodes, make_bc
from helpers import VECTOR
from sb3_elmur.bc import BC, BCConfig
from sb3_elmur.bc.checkpoint import fingerprint
from sb3_elmur.bc.loss import BinaryLoss, DiscreteLoss
from sb3_elmur.datasets import open_episodes
from sb3_elmur.evaluation import run_episodes
from sb3_elmur.masks import masked_distribution
from sb3_elmur.recording import record
from sb3_elmur.spaces import choices

every_space = pytest.mark.parametrize("action_space", MASKED_SPACES, ids=str)


def steps(action_space: spaces.Space, n: int = 30) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Outputs of a network, valid actions counted from 0, and masks."""
    generator = np.random.default_rng(0)
    n_outputs = make_proba_distribution(action_space).proba_distribution_net(2).out_features
    masks = th.as_tensor(generator.random((n, sum(choices(action_space) or []))) < 0.5)
    samples = np.stack([action_space.sample() for _ in range(n)])
    for action, mask in zip(samples, masks, strict=True):
        mask[to_flags(action_space, action)] = True
    actions = th.as_tensor(samples - getattr(action_space, "start", 0))
    return th.as_tensor(generator.normal(size=(n, n_outputs)), dtype=th.float32), actions, masks


def cloning_loss(action_space: spaces.Space, label_smoothing: float = 0.0) -> DiscreteLoss:
    return (BinaryLoss if isinstance(action_space, spaces.MultiBinary) else DiscreteLoss)(action_space, label_smoothing)


@every_space
def test_the_loss_is_that_of_the_masked_distribution(action_space: spaces.Space) -> None:
    outputs, actions, masks = steps(action_space)
    expected = -masked_distribution(action_space, outputs, masks).log_prob(actions)
    th.testing.assert_close(cloning_loss(action_space).loss(outputs, actions, masks), expected)


@every_space
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_with_all_actions_valid_loss_and_accuracy_are_the_unmasked_ones(
    action_space: spaces.Space, label_smoothing: float
) -> None:
    outputs, actions, masks = steps(action_space)
    loss, all_valid = cloning_loss(action_space, label_smoothing), th.ones_like(masks)
    th.testing.assert_close(loss.loss(outputs, actions, all_valid), loss.loss(outputs, actions))
    th.testing.assert_close(loss.measure(outputs, actions, all_valid), loss.measure(outputs, actions))


@every_space
def test_invalid_choices_have_no_gradient(action_space: spaces.Space) -> None:
    outputs, actions, masks = steps(action_space)
    outputs.requires_grad_()
    loss = cloning_loss(action_space, 0.2).loss(outputs, actions, masks)
    assert (loss < 100).all()
    loss.sum().backward()
    if isinstance(action_space, spaces.MultiBinary):
        masks = masks.reshape(len(masks), -1, 2).all(2)
    th.testing.assert_close(outputs.grad[~masks], th.zeros_like(outputs.grad[~masks]))


def test_episodes_without_masks_are_as_those_with_all_actions_valid() -> None:
    trainers = [make_bc(spaces.Discrete(5)) for _ in range(2)]
    made = trainers[0].episodes
    assert isinstance(made, MadeEpisodes)
    made.made = [
        replace(episode, action_masks=np.ones((len(episode), 5), dtype=np.int8)) if i % 2 else episode
        for i, episode in enumerate(made.made)
    ]
    for trainer in trainers:
        trainer.train_batch()
    th.testing.assert_close(trainers[0].epoch_sums, trainers[1].epoch_sums, rtol=1e-3, atol=1e-3)


def test_other_masks_make_another_data_set_for_a_checkpoint() -> None:
    episodes = MadeEpisodes(VECTOR, spaces.Discrete(5), [4, 3])
    before = fingerprint(episodes)
    episodes.made[0] = replace(episodes.made[0], action_masks=np.ones((4, 5), dtype=np.int8))
    assert fingerprint(episodes) != before


def clone_and_evaluate(action_space: spaces.Space, folder: str, n_episodes: int) -> int:
    """The environment raises an error at an invalid action. Returns the steps that were recorded and evaluated."""
    record(lambda: MaskedEnv(action_space), "random", folder, 20, noise=0.5)
    env = make_vec_env(lambda: MaskedEnv(action_space), 10, seed=0)
    episodes = open_episodes(folder, env.observation_space, action_space)
    trainer = make_bc(action_space, env.observation_space)
    trainer = BC(trainer.model, episodes, BCConfig(n_epochs=1, batch_size=5, bptt_segments=2, n_eval_episodes=2), env)
    trainer.train()
    played = int(episodes.lengths.sum())
    for batch in range(n_episodes // 10):
        played += int(sum(episode["length"] for episode in run_episodes(trainer.policy, env, batch, deterministic=False)))
    return played


def test_a_cloned_policy_takes_no_invalid_action(tmp_path: Path) -> None:
    assert clone_and_evaluate(MASKED_SPACES[2], str(tmp_path), 20) >= 280


@pytest.mark.slow
@every_space
def test_a_cloned_policy_takes_no_invalid_action_in_many_steps(action_space: spaces.Space, tmp_path: Path) -> None:
    assert clone_and_evaluate(action_space, str(tmp_path), 3600) >= 25_000

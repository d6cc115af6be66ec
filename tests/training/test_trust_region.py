"""What an update does to whole episodes, and how much of it is taken back."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor

import helpers
from helpers import ACTION_SPACES, random_envs
from sb3_elmur import RecurrentPPO
from sb3_elmur.training.trust_region import SMALLEST, critic_weights, rollout_kl

make_model = partial(helpers.make_model, RecurrentPPO)


def shake(model: RecurrentPPO, size: float = 0.05) -> None:
    """Move all weights at random."""
    generator = th.Generator().manual_seed(0)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter += size * th.randn(parameter.shape, generator=generator)


def kl_of_chains(model: RecurrentPPO) -> float:
    """As the ratios of PPO see it."""
    (data,) = model.rollout_buffer.get(None)
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(
            data.observations, data.actions.long().flatten(), data.lstm_states, data.episode_starts
        )
    log_ratio = log_prob - data.old_log_prob
    return float((log_ratio.exp() - 1 - log_ratio).mean())


@pytest.mark.parametrize(("bptt_segments", "batch_size"), [(1, 8), (2, 8), (9, 8), (2, None)])
def test_the_divergence_is_that_of_a_walk_through_whole_episodes(bptt_segments: int, batch_size: int | None) -> None:
    """Step by step, with the packed state that the unmodified class carries."""
    chains = {"bptt_segments": bptt_segments, "batch_size": batch_size}
    model = make_model(random_envs(3, mean_length=20), n_steps=40, learning_rate=0.0, **chains).learn(1)
    shake(model)
    buffer, policy = model.rollout_buffer, model.policy
    state = tuple(th.zeros(1, 3, policy.lstm_actor.hidden_size) for _ in range(2))
    divergences = []
    with th.no_grad():
        for t in range(40):
            starts = th.as_tensor(buffer.episode_starts[t])
            distribution, state = policy.get_distribution(th.as_tensor(buffer.observations[t]), state, starts)
            new = distribution.log_prob(th.as_tensor(buffer.actions[t, :, 0]).long()).double().numpy()
            log_ratio = new - buffer.log_probs[t]
            divergences.append(np.exp(log_ratio) - 1 - log_ratio)
    assert rollout_kl(model) == pytest.approx(np.mean(divergences), rel=1e-4)
    assert rollout_kl(model) > 1e-4


def test_chains_do_not_see_what_an_update_does_to_the_memory_before_them() -> None:
    model = make_model(random_envs(3, mean_length=1e9), n_steps=40, bptt_segments=1, learning_rate=0.0).learn(1)
    with th.no_grad():
        for layer in model.policy.backbone.core.layers:
            for parameter in layer.memory_ffn.parameters():
                parameter += th.randn_like(parameter)
    assert kl_of_chains(model) < 1e-6
    assert rollout_kl(model) > 1e-5


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_no_update_leaves_the_region(action_space: spaces.Space) -> None:
    model = make_model(random_envs(2, action_space=action_space), trust_region=1e-4, learning_rate=0.1, n_epochs=4)
    train, steps = model.train, []

    def train_and_measure() -> None:
        train()
        steps.append((rollout_kl(model), model.logger.name_to_value["train/kl_limit"]))

    model.train = train_and_measure
    model.learn(160)
    assert len(steps) == 5
    assert all(kl <= limit <= 1e-4 for kl, limit in steps)
    assert model.step_size < 1.0


def test_the_limit_of_a_policy_that_is_sure_is_a_share_of_its_entropy() -> None:
    model = make_model(random_envs(2), trust_region=0.1)
    th.nn.init.constant_(model.policy.action_net.bias[:1], 9.0)
    model.learn(32)
    entropy = -model.rollout_buffer.log_probs.mean()
    assert model.logger.name_to_value["train/kl_limit"] == pytest.approx(0.1 * entropy)
    assert entropy < 0.5


def test_an_update_inside_the_region_is_left_as_it_is() -> None:
    free, bounded = (make_model(random_envs(2), trust_region=size).learn(96) for size in (None, 1e6))
    assert (free.policy.parameters_to_vector() == bounded.policy.parameters_to_vector()).all()
    assert bounded.step_size == 1.0


def test_what_the_critic_has_for_itself_learns_undisturbed() -> None:
    policy_kwargs = {"separate_critic": True, "share_features_extractor": False, "net_arch": [8]}
    free, bounded = (
        make_model(random_envs(2), trust_region=size, policy_kwargs=policy_kwargs).learn(32) for size in (None, 1e-9)
    )
    critic = {id(parameter) for parameter in critic_weights(bounded.policy)}
    same = {}
    for (name, left), right in zip(bounded.policy.named_parameters(), free.policy.parameters(), strict=True):
        same[name] = th.equal(left, right)
        assert same[name] or id(left) not in critic, name
    assert not all(same.values())
    assert bounded.step_size < 1e-3


class Normed(BaseFeaturesExtractor):
    """Keeps running means of what it sees while it trains."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, 3)
        self.net = th.nn.BatchNorm1d(3)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.net(x)


def test_running_means_are_set_back_with_the_weights() -> None:
    """Otherwise an update that moves nothing else would lead too far, however small its steps."""
    policy_kwargs = {"features_extractor_class": Normed}
    model = make_model(random_envs(2), trust_region=1e-12, learning_rate=0.0, averaging=0.0, policy_kwargs=policy_kwargs)
    before = model.policy.pi_features_extractor.net.running_mean.clone()
    model.learn(32)
    th.testing.assert_close(model.policy.pi_features_extractor.net.running_mean, before, rtol=0, atol=1e-4)
    assert rollout_kl(model) <= 1e-12


class Restless(FlattenExtractor):
    """Random, also where nothing is trained."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x + th.rand_like(x)


def test_a_policy_that_no_replay_repeats_is_named_and_keeps_its_step_size() -> None:
    policy_kwargs = {"features_extractor_class": Restless}
    model = make_model(random_envs(2), trust_region=1e-12, averaging=0.0, policy_kwargs=policy_kwargs)
    before = th.nn.utils.parameters_to_vector(model.policy.action_net.parameters())
    with pytest.warns(UserWarning, match=r"`trust_region` allows .* the update was taken back"):
        model.learn(32)
    assert model.step_size == 1.0
    th.testing.assert_close(th.nn.utils.parameters_to_vector(model.policy.action_net.parameters()), before, rtol=0, atol=0)


def test_a_step_size_never_vanishes() -> None:
    model = make_model(random_envs(2), trust_region=1e-9, averaging=0.0, learning_rate=1.0)
    model.step_size = SMALLEST
    model.learn(32)
    assert model.logger.name_to_value["train/rollout_kl"] > 1e-9  # so that it would have shrunk
    assert model.step_size == SMALLEST


def test_step_size_grows_again_and_travels_in_the_file(tmp_path: Path) -> None:
    model = make_model(random_envs(2), trust_region=0.2)
    model.step_size = 0.25
    model.learn(32)
    assert model.step_size == 0.25 * 1.5
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model", env=random_envs(2))
    assert loaded.step_size == model.step_size
    assert loaded.trust_region == 0.2
    assert len(loaded.policy.optimizer.param_groups) == 1
    before = loaded.policy.optimizer.param_groups[0]["lr"]
    assert before == model.policy.optimizer.param_groups[0]["lr"] == 1e-2

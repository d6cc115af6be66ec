"""What cloning leaves for online training: a spread of actions, an untouched critic, a model that both classes train."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution

import sb3_elmur
from cloning_helpers import MOE, make_bc, parameters, watch_step_losses
from helpers import ACTION_SPACES, DICT, IMAGE, VECTOR, random_envs
from sb3_elmur.bc.loss import SMALLEST_STD


@pytest.mark.parametrize(
    ("use_sde", "policy_kwargs"),
    [(False, {}), (True, {}), (True, {"full_std": False}), (True, {"squash_output": True})],
    ids=str,
)
def test_log_std_is_the_residuals(use_sde: bool, policy_kwargs: dict) -> None:
    rng, weight, noise = np.random.default_rng(0), np.array([[0.5, 0.0], [-0.2, 0.3], [0.1, 0.1]]), np.array([0.1, 0.3])

    def expert(obs: np.ndarray) -> np.ndarray:
        return (obs @ weight + noise * rng.normal(size=(len(obs), 2))).clip(-1, 1).astype(np.float32)

    trainer = make_bc(
        spaces.Box(-1, 1, (2,)), lengths=[17] * 40, expert=expert, model={"use_sde": use_sde},
        policy_kwargs=policy_kwargs, n_epochs=4, batch_size=8, bptt_segments=5,
    )  # fmt: skip
    trainer.train()
    policy = trainer.policy
    obs = np.stack([episode.observations for episode in trainer.episodes.made], axis=1)  # (T, B, 3)
    actions = np.stack([episode.actions for episode in trainer.episodes.made], axis=1)
    pair = tuple(th.zeros(1, 40, policy.lstm_actor.hidden_size) for _ in range(2))
    stds, residuals = [], []
    with th.no_grad():
        for t in range(17):
            starts = th.full((40,), float(t == 0))
            distribution, pair = policy.get_distribution(th.as_tensor(obs[t]), pair, starts)
            stds.append(distribution.distribution.stddev)
            residuals.append(distribution.mode() - th.as_tensor(actions[t]))
    std, residual = (th.cat(values).square().mean(0).sqrt() for values in (stds, residuals))
    if policy_kwargs.get("full_std", True):
        assert (residual > 0.9 * th.as_tensor(noise)).all()
        th.testing.assert_close(std, residual.to(std.dtype), rtol=0.1, atol=0.0)
    else:
        assert residual.min() < std.mean() < residual.max()
    assert isinstance(policy.action_dist, StateDependentNoiseDistribution) == use_sde


def test_log_std_has_a_floor() -> None:
    def expert(obs: np.ndarray) -> np.ndarray:
        return np.zeros((len(obs), 2), dtype=np.float32)

    trainer = make_bc(ACTION_SPACES[1], expert=expert, learning_rate=0.0)
    for parameter in trainer.policy.action_net.parameters():
        th.nn.init.zeros_(parameter)
    trainer.train()
    np.testing.assert_allclose(trainer.policy.log_std.exp().detach().numpy(), SMALLEST_STD, rtol=1e-6)


FINE_TUNED: dict[str, dict[str, Any]] = {
    **{type(space).__name__: {"action_space": space} for space in ACTION_SPACES},
    "Image": {"observation_space": IMAGE, "policy": "ElmurCnnPolicy"},
    "Dict": {"observation_space": DICT, "policy": "ElmurMultiInputPolicy", "action_space": ACTION_SPACES[1]},
    "separate": {"policy_kwargs": {"separate_critic": True, "share_features_extractor": False}},
    "gSDE": {"action_space": spaces.Box(-1, 1, (2,)), "model": {"use_sde": True}, "policy_kwargs": {"squash_output": True}},
    "net_arch": {"policy_kwargs": {"net_arch": {"pi": [7], "vf": [5]}}},
    "moe": {"policy_kwargs": MOE},
}


@pytest.mark.parametrize("settings", FINE_TUNED.values(), ids=FINE_TUNED.keys())
@pytest.mark.parametrize("cls", [sb3_elmur.RecurrentPPO, sb3_contrib.RecurrentPPO], ids=["ours", "host's"])
def test_a_cloned_policy_is_fine_tuned_online(tmp_path: Path, cls: Any, settings: dict[str, Any]) -> None:
    trainer = make_bc(**settings, lengths=[5, 9], n_epochs=1)
    start = parameters(trainer)
    trainer.train()
    assert not th.equal(parameters(trainer), start)
    trainer.save(tmp_path / "model")
    assert (tmp_path / "model.zip").is_file()
    env = random_envs(2, settings.get("observation_space", VECTOR), settings.get("action_space", ACTION_SPACES[0]))
    model = cls.load(tmp_path / "model", env=env)
    obs = env.reset()
    (expected, _), (found, _) = trainer.model.predict(obs, deterministic=True), model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(found, expected)
    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}
    model.learn(32)
    changed = {name for name, parameter in model.policy.named_parameters() if not th.equal(parameter, before[name])}
    assert {"action_net.weight", "value_net.weight", "backbone.embed.weight"} <= changed
    assert parameters(type("", (), {"policy": model.policy})).isfinite().all()


def test_only_the_actor_is_cloned() -> None:
    trainer = make_bc(policy_kwargs={"separate_critic": True, "share_features_extractor": False, "net_arch": [5]})
    before = {name: parameter.clone() for name, parameter in trainer.policy.named_parameters()}
    trainer.train()
    for name, parameter in trainer.policy.named_parameters():
        critics = name.startswith(("critic_backbone.", "vf_features_extractor.", "mlp_extractor.value_net.", "value_net."))
        assert th.equal(parameter, before[name]) == critics, name


def test_images_are_taken_as_the_environment_shows_them() -> None:
    """Channels last, which Stable-Baselines3 transposes, or channels first."""
    losses = []
    for space in (IMAGE, spaces.Box(0, 255, (3, 36, 36), np.uint8)):
        trainer = make_bc(observation_space=space, policy="ElmurCnnPolicy", lengths=[5, 2], learning_rate=0.0)
        rng = np.random.default_rng(0)
        for episode in trainer.episodes.made:
            images = rng.integers(256, size=(len(episode), 36, 36, 3))
            episode.observations[:] = images if space is IMAGE else images.transpose(0, 3, 1, 2)
            episode.actions[:] = rng.integers(3, size=len(episode))
        losses.append(watch_step_losses(trainer))
        trainer.train_batch()
    th.testing.assert_close(losses[0], losses[1])

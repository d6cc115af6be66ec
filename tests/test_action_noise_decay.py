"""Properties of the decay of action noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import sb3_contrib
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import sb3_elmur
from helpers import SMALL
from sb3_elmur.callbacks import ActionNoiseDecay

N_STEPS = 16
FACTORIES = {
    "ppo": lambda **more: PPO("MlpPolicy", **more),
    "lstm": lambda **more: sb3_contrib.RecurrentPPO("MlpLstmPolicy", **more),
    "host": lambda **more: sb3_contrib.RecurrentPPO(sb3_elmur.ElmurPolicy, **more),
    "elmur": lambda **more: sb3_elmur.RecurrentPPO("ElmurPolicy", **more),
}


class Noise(BaseCallback):
    """Keeps the standard deviations of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[th.Tensor] = []

    def _on_step(self) -> bool:
        self.seen.append(self.model.policy.log_std.detach().exp().clone())
        return True


def make(name: str, env: str = "Pendulum-v1", **more: Any) -> Any:
    policy_kwargs = (SMALL if name in ("host", "elmur") else {}) | more.pop("policy_kwargs", {})
    arguments = {"n_steps": N_STEPS, "batch_size": N_STEPS, "n_epochs": 2, "seed": 0, "device": "cpu"}
    return FACTORIES[name](env=env, policy_kwargs=policy_kwargs, **arguments | more)


@pytest.mark.parametrize("name", FACTORIES)
def test_noise_falls_by_the_same_factor_and_stays(name: str) -> None:
    model, noise = make(name, policy_kwargs={"log_std_init": math.log(0.8)}), Noise()
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(5 * N_STEPS, [ActionNoiseDecay(0.1, 0.6), noise])
    assert len(noise.seen) == 5 * N_STEPS
    for step, std in enumerate(noise.seen):
        rollout = min(step // N_STEPS, 3)
        th.testing.assert_close(std, th.full_like(std, 0.8 * 0.125 ** (rollout / 3)))
    changed = {key for key, value in model.policy.state_dict().items() if not th.equal(value, before[key])}
    assert {"log_std", "action_net.weight", "value_net.weight"} <= changed
    assert model.policy.log_std.requires_grad


def test_smaller_noise_is_not_raised() -> None:
    model, noise = make("elmur"), Noise()
    with th.no_grad():
        model.policy.log_std.fill_(math.log(0.3))
    model.learn(3 * N_STEPS, [ActionNoiseDecay(0.1, 2 / 3), noise])
    stds = [float(std) for std in noise.seen[::N_STEPS]]
    assert stds == pytest.approx([0.3, 0.3, 0.1])


def test_training_that_goes_on_goes_on_with_its_noise() -> None:
    model = make("ppo")
    model.learn(N_STEPS, ActionNoiseDecay(0.25))
    model.learn(7 * N_STEPS, [ActionNoiseDecay(0.25), noise := Noise()], reset_num_timesteps=False)
    th.testing.assert_close(noise.seen[0], th.tensor([0.25**0.25]))


def test_without_it_noise_is_trained_again() -> None:
    model = make("ppo")
    model.learn(N_STEPS, ActionNoiseDecay(0.25))
    model.learn(2 * N_STEPS, noise := Noise(), reset_num_timesteps=False)
    assert not th.equal(noise.seen[0], noise.seen[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.5), "`final_std`"),
        ((float("nan"), 0.5), "`final_std`"),
        ((0.1, 0.0), "`fraction`"),
        ((0.1, 1.5), "`fraction`"),
    ],
)
def test_other_arguments_are_refused_by_name(arguments: tuple[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionNoiseDecay(*arguments)


@pytest.mark.parametrize(("env", "use_sde"), [("CartPole-v1", False), ("Pendulum-v1", True)])
def test_policies_without_such_noise_are_refused(env: str, use_sde: bool) -> None:
    with pytest.raises(ValueError, match=r"`policy`.*gSDE"):
        make("ppo", env, use_sde=use_sde).learn(N_STEPS, ActionNoiseDecay(0.1))

"""The average of weights that evaluation, files and the final policy have, and what training goes on from."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

import helpers
from helpers import random_envs
from sb3_elmur import RecurrentPPO
from sb3_elmur.callbacks import ActionNoiseDecay

make_model = partial(helpers.make_model, RecurrentPPO)


class Look(BaseCallback):
    """Keeps the weights after each update, those that act in `predict`, and those that a file would get."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[np.ndarray] = []
        self.saved: list[np.ndarray] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.weights.append(self.model.policy.parameters_to_vector())
        state = self.model.get_parameters()["policy"]
        names = [name for name, _ in self.model.policy.named_parameters()]
        self.saved.append(np.concatenate([state[name].numpy().ravel() for name in names]))


def test_the_policy_becomes_the_average_of_its_weights() -> None:
    look = Look()
    model = make_model(random_envs(2), averaging=0.5).learn(96, callback=look)
    first, second = look.weights[1:]
    np.testing.assert_allclose(look.saved[1], first, atol=1e-6)
    np.testing.assert_allclose(look.saved[2], (first + 2 * second) / 3, atol=1e-6)
    plain = make_model(random_envs(2), averaging=0.0).learn(96)
    last = plain.policy.parameters_to_vector()
    np.testing.assert_allclose(model.policy.parameters_to_vector(), (first + 2 * second + 3 * last) / 6, atol=1e-6)


def weights(model: RecurrentPPO) -> np.ndarray:
    """Of its policy."""
    return model.policy.parameters_to_vector()


def test_many_short_trainings_are_one_long_training() -> None:
    long = make_model(random_envs(2)).learn(128)
    short = make_model(random_envs(2)).learn(32)
    for _ in range(3):
        short.learn(32, reset_num_timesteps=False)
    np.testing.assert_array_equal(weights(short), weights(long))


@pytest.mark.parametrize("averaging", [0.0, 0.5])
def test_a_training_that_begins_anew_begins_with_the_policys_weights(averaging: float) -> None:
    model = make_model(random_envs(2), averaging=averaging).learn(96)
    look, before = Look(), weights(model)
    model.learn(32, callback=look)
    np.testing.assert_array_equal(look.weights[0], before)


def test_weights_that_were_set_between_trainings_are_trained_on() -> None:
    model, look = make_model(random_envs(2)).learn(96), Look()
    with th.no_grad():
        model.policy.action_net.bias += 1.0
    changed = weights(model)
    model.learn(32, callback=look, reset_num_timesteps=False)
    np.testing.assert_array_equal(look.weights[0], changed)
    np.testing.assert_array_equal(look.saved[0], changed)


def test_training_that_goes_on_from_a_file_begins_a_new_average(tmp_path: Path) -> None:
    make_model(random_envs(2), averaging=0.5).learn(96).save(tmp_path / "model")
    learned = [
        weights(RecurrentPPO.load(tmp_path / "model", random_envs(2), seed=0, averaging=averaging).learn(32))
        for averaging in (0.0, 0.5)
    ]
    np.testing.assert_array_equal(*learned)


def test_averages_do_not_wait_for_what_is_not_trained() -> None:
    model = make_model(random_envs(2, action_space=spaces.Box(-1, 1, (2,))), averaging=1.0)
    model.learn(5 * 32, callback=ActionNoiseDecay(final_std=0.1, fraction=1.0))
    std = model.policy.log_std.exp().max().item()
    assert std == pytest.approx(0.1 ** (4 / 5), rel=1e-4)  # of the last rollout


def test_the_average_explores_with_the_noise_of_the_policy() -> None:
    class Compare(BaseCallback):
        def _on_step(self) -> bool:
            live, average = self.model.policy.action_dist, self.model.averaged_policy.action_dist
            assert th.equal(live.exploration_mat, average.exploration_mat)
            matrices.append(live.exploration_mat.clone())
            return True

    matrices: list[th.Tensor] = []
    envs = random_envs(2, action_space=spaces.Box(-1, 1, (2,)))
    make_model(envs, use_sde=True).learn(64, callback=Compare())
    assert not th.equal(matrices[0], matrices[-1])


@pytest.mark.parametrize("number", [1.0, float("nan")])
def test_a_training_that_fails_leaves_the_average_unless_weights_failed(number: float) -> None:
    class FailedError(Exception):
        pass

    class Fail(Look):
        def _on_rollout_start(self) -> None:
            if len(self.weights) == 2:
                with th.no_grad():
                    self.model.policy.action_net.bias.fill_(number)
            super()._on_rollout_start()
            if len(self.weights) == 3:
                raise FailedError

    model, look = make_model(random_envs(2)), Fail()
    with pytest.raises(FailedError):
        model.learn(128, callback=look)
    np.testing.assert_array_equal(weights(model), (look.saved if number == 1.0 else look.weights)[-1])
    assert (look.saved[-1] != look.weights[-1]).any()


def test_while_it_learns_a_model_predicts_and_saves_with_averaged_weights(tmp_path: Path) -> None:
    observation = np.ones((4, 3), np.float32)
    actions, values = [], []

    class Save(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            self.model.save(tmp_path / str(len(actions)))
            actions.append(self.model.predict(observation, deterministic=True)[0])
            values.append(self.model.policy.parameters_to_vector())

    make_model(random_envs(2, action_space=spaces.Box(-1, 1, (2,)))).learn(96, callback=Save())
    for i, expected in enumerate(actions):
        loaded = RecurrentPPO.load(tmp_path / str(i))
        np.testing.assert_allclose(loaded.predict(observation, deterministic=True)[0], expected, atol=1e-6)
    assert (weights(loaded) != values[-1]).any()


class KeepFirst(BaseCallback):
    """Ends a training with the weights of its beginning."""

    def _on_training_start(self) -> None:
        self.first = {name: weight.clone() for name, weight in self.model.policy.state_dict().items()}

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.model.set_parameters({"policy": self.first}, exact_match=False)


def test_a_callback_has_the_last_word_when_training_ends() -> None:
    callback = KeepFirst()
    model = make_model(random_envs(2)).learn(64, callback=callback)
    assert all(th.equal(weight, model.policy.state_dict()[name]) for name, weight in callback.first.items())


class Looked(BaseFeaturesExtractor):
    """Keeps what it has computed, to be looked at."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, 3)
        self.net = th.nn.Linear(3, 3)

    def forward(self, x: th.Tensor) -> th.Tensor:
        self.seen = self.net(x)
        return self.seen


def test_a_policy_that_keeps_results_of_its_last_pass_is_averaged() -> None:
    model = make_model(random_envs(2), policy_kwargs={"features_extractor_class": Looked}, trust_region=None)
    model.learn(32)
    before = model.policy.pi_features_extractor.net.weight.clone()
    model.learn(32)
    assert not th.equal(model.policy.pi_features_extractor.net.weight, before)

"""What sb3-contrib tests of ``MaskablePPO`` (its ``tests/test_invalid_actions.py``), with memory."""

import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib.common.envs import InvalidActionEnvDiscrete, InvalidActionEnvMultiBinary, InvalidActionEnvMultiDiscrete
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.callbacks import BaseCallback, EventCallback, StopTrainingOnNoModelImprovement
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnv, IdentityEnvBox
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from helpers import make_model
from sb3_elmur import MaskableEvalCallback, RecurrentPPO

ONE_IS_VALID = {
    "Discrete": lambda: InvalidActionEnvDiscrete(dim=20, n_invalid_actions=19),
    "MultiDiscrete": lambda: InvalidActionEnvMultiDiscrete(dims=[2, 3], n_invalid_actions=3),
    "MultiBinary": lambda: InvalidActionEnvMultiBinary(dims=3, n_invalid_actions=3),
}
SOME_ARE_VALID = {
    "Discrete": lambda: InvalidActionEnvDiscrete(dim=20, n_invalid_actions=10),
    "MultiDiscrete": lambda: InvalidActionEnvMultiDiscrete(dims=[2, 3], n_invalid_actions=1),
    "MultiBinary": lambda: InvalidActionEnvMultiBinary(dims=3, n_invalid_actions=1),
}
every_kind = pytest.mark.parametrize("kind", ONE_IS_VALID)


class DictObservations(gym.ObservationWrapper):
    """The observation under a key."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict({"obs": env.observation_space})

    def observation(self, observation: Any) -> dict[str, Any]:
        return {"obs": observation}


def mean_reward(model: RecurrentPPO, env: Any, n_episodes: int = 1) -> float:
    with model.masked_by(env):
        return float(np.mean(evaluate_policy(model, env, n_episodes, warn=False)[0]))


@every_kind
def test_training_supports_the_action_space(kind: str) -> None:
    model = make_model(RecurrentPPO, SOME_ARE_VALID[kind]()).learn(32)
    assert model.num_timesteps == 32


@every_kind
def test_a_random_model_succeeds_where_only_the_right_action_is_valid(kind: str) -> None:
    env = ONE_IS_VALID[kind]()
    assert mean_reward(make_model(RecurrentPPO, env), env) == 100


@every_kind
def test_dict_observations_are_supported(kind: str) -> None:
    env = DictObservations(ONE_IS_VALID[kind]())
    model = make_model(RecurrentPPO, env, "ElmurMultiInputPolicy")
    assert mean_reward(model, env) == 100
    model.learn(32)


def test_images_and_an_action_masker_are_supported() -> None:
    def mask(env: gym.Env) -> list[bool]:
        invalid = random.randrange(env.action_space.n)
        return [i != invalid for i in range(env.action_space.n)]

    env = ActionMasker(FakeImageEnv(), mask)
    model = make_model(RecurrentPPO, env, "ElmurCnnPolicy", policy_kwargs={"features_extractor_kwargs": {"features_dim": 8}})
    assert model.learn(32).num_timesteps == 32
    assert np.isfinite(mean_reward(model, env, n_episodes=1))


def test_without_its_masks_the_model_fails() -> None:
    env = ONE_IS_VALID["Discrete"]()
    model = make_model(RecurrentPPO, env)
    assert float(np.mean(evaluate_policy(model, env, 1, warn=False)[0])) < 50


@pytest.mark.parametrize("vec_env_class", [DummyVecEnv, pytest.param(SubprocVecEnv, marks=pytest.mark.slow)])
def test_several_environments_are_supported(vec_env_class: type) -> None:
    env = make_vec_env(ONE_IS_VALID["Discrete"], 2, vec_env_cls=vec_env_class)
    model = make_model(RecurrentPPO, env).learn(32)
    assert mean_reward(model, env) == 100
    env.close()


def test_environments_without_masks_are_trained_and_evaluated_as_before() -> None:
    env = IdentityEnv(dim=2)
    model = make_model(RecurrentPPO, env).learn(32)
    assert model.rollout_buffer.action_masks is None
    assert np.isfinite(mean_reward(model, env))


def test_masks_of_continuous_actions_are_ignored() -> None:
    env = ActionMasker(IdentityEnvBox(), lambda env: [True, False])
    model = make_model(RecurrentPPO, env).learn(32)
    assert model.rollout_buffer.action_masks is None
    assert np.isfinite(mean_reward(model, env))


def test_episodes_cut_by_a_time_limit_are_supported() -> None:
    env = gym.wrappers.TimeLimit(SOME_ARE_VALID["Discrete"](), 10)
    model = make_model(RecurrentPPO, env).learn(64)
    assert {episode["l"] for episode in model.ep_info_buffer} == {10}


def test_the_callback_evaluates_with_masks(tmp_path: Path) -> None:
    callback = MaskableEvalCallback(
        Monitor(ONE_IS_VALID["Discrete"]()), eval_freq=32, n_eval_episodes=2, log_path=str(tmp_path)
    )
    make_model(RecurrentPPO, SOME_ARE_VALID["Discrete"]()).learn(32, callback=callback)
    assert callback.last_mean_reward == 100


def test_the_callback_asks_the_environment_for_masks_only_where_it_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    callback = MaskableEvalCallback(Monitor(ONE_IS_VALID["Discrete"]()), eval_freq=16, n_eval_episodes=1)
    model, evaluations = make_model(RecurrentPPO, SOME_ARE_VALID["Discrete"]()), []
    masked_by = model.masked_by
    monkeypatch.setattr(model, "masked_by", lambda env: evaluations.append(callback.n_calls) or masked_by(env))
    model.learn(32, callback=callback)
    assert {calls for calls in evaluations if calls} == {16, 32}


def test_masks_are_of_the_environment_that_a_callback_evaluates_in() -> None:
    actions: set[int] = set()

    class EvaluateWithoutMasks(BaseCallback):
        """Evaluates in an environment that has none."""

        def _on_step(self) -> bool:
            def note(variables: dict[str, Any], _: Any) -> None:
                actions.update(variables["actions"].tolist())

            evaluate_policy(self.model, IdentityEnv(20), 1, deterministic=False, callback=note, warn=False)
            return True

    callback = MaskableEvalCallback(
        Monitor(ONE_IS_VALID["Discrete"]()), eval_freq=32, n_eval_episodes=1, callback_after_eval=EvaluateWithoutMasks()
    )
    make_model(RecurrentPPO, SOME_ARE_VALID["Discrete"]()).learn(32, callback=callback)
    assert callback.last_mean_reward == 100
    assert len(actions) > 1


def test_the_callback_evaluates_without_masks_if_told_so() -> None:
    callback = MaskableEvalCallback(Monitor(ONE_IS_VALID["Discrete"]()), eval_freq=32, n_eval_episodes=1, use_masking=False)
    make_model(RecurrentPPO, SOME_ARE_VALID["Discrete"]()).learn(32, callback=callback)
    assert callback.last_mean_reward < 50


def test_the_callback_calls_its_own_callbacks() -> None:
    stop, on_best = StopTrainingOnNoModelImprovement(1, 2), EventCallback()
    callback = MaskableEvalCallback(
        Monitor(SOME_ARE_VALID["Discrete"]()),
        eval_freq=32,
        n_eval_episodes=1,
        callback_after_eval=stop,
        callback_on_new_best=on_best,
    )
    make_model(RecurrentPPO, SOME_ARE_VALID["Discrete"]()).learn(64, callback=callback)
    assert stop.n_calls >= on_best.n_calls > 0


@pytest.mark.slow
def test_with_masks_few_steps_teach_more_than_twice_as_much() -> None:
    """The host's MLP reaches 90 of 100 after so few steps; a transformer is slower, with masks and without."""

    def learned(use_masking: bool) -> float:
        env = InvalidActionEnvDiscrete(dim=70, n_invalid_actions=55)
        policy_kwargs = {"d_model": 64, "memory_size": 2, "n_layers": 1, "segment_length": 4}
        model = RecurrentPPO(
            "ElmurPolicy", env, gamma=0.4, seed=32, learning_rate=3e-3, n_steps=64, bptt_segments=1, trust_region=None,
            averaging=0.0, policy_kwargs=policy_kwargs,
        )  # fmt: skip
        model.learn(3000, use_masking=use_masking)
        return mean_reward(model, env, 20) if use_masking else float(np.mean(evaluate_policy(model, env, 20, warn=False)[0]))

    assert learned(use_masking=True) > 2 * learned(use_masking=False)

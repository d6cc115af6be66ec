"""Slow tests: learning thresholds that separate memory from no memory, under both RecurrentPPO classes."""

import gymnasium as gym
import pytest
import sb3_contrib
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

import sb3_elmur

pytestmark = pytest.mark.slow


def cartpole_without_velocities() -> gym.Env:
    env = gym.make("CartPole-v1")
    box = env.observation_space
    return TransformObservation(env, lambda obs: obs[[0, 2]], spaces.Box(box.low[[0, 2]], box.high[[0, 2]]))


@pytest.mark.parametrize("cls", [sb3_contrib.RecurrentPPO, sb3_elmur.RecurrentPPO], ids=["unmodified", "segment-wise"])
def test_cartpole_without_velocities_is_solved(cls: type[sb3_contrib.RecurrentPPO]) -> None:
    """A policy without memory does not get beyond about 50 (sb3-contrib's own test)."""
    env = VecNormalize(make_vec_env(cartpole_without_velocities, n_envs=8))
    model = cls(
        "ElmurPolicy",
        env,
        n_steps=128,
        batch_size=256,
        n_epochs=5,
        learning_rate=LinearSchedule(7e-4, 0.0, 1.0),
        gae_lambda=0.98,
        max_grad_norm=1,
        seed=1,
        policy_kwargs={"d_model": 64, "segment_length": 16, "memory_size": 4},
    )
    model.learn(80_000)
    env.training = env.norm_reward = False
    mean, _ = evaluate_policy(model, env, n_eval_episodes=20)
    assert mean >= 450

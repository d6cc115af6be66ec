"""Episodes of any environment, and how sure the share of successes is."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from helpers import VECTOR, RandomEnv, make_policy, random_envs
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.evaluation import run_episodes, wilson_interval
from sb3_elmur.evaluation.episodes import successes
from sb3_elmur.evaluation.record import Record, compare_models


@pytest.mark.parametrize(
    "make_envs",
    [random_envs, lambda n_envs: make_vec_env("CartPole-v1", n_envs), lambda n_envs: TMazeVecEnv(n_envs, 9, reward="penalty")],
    ids=["random", "CartPole", "TMaze"],
)
def test_episodes_are_those_of_evaluate_policy(make_envs: Callable[[int], VecEnv]) -> None:
    env = make_envs(5)
    policy = make_policy(env.observation_space, env.action_space)
    calls: list[tuple[int, int]] = []
    episodes = run_episodes(policy, env, 7, lambda *call: calls.append(call))
    env.seed(7)
    returns, lengths = evaluate_policy(policy, env, n_eval_episodes=5, return_episode_rewards=True, warn=False)
    found = sorted((episode["length"], episode["return"]) for episode in episodes)
    np.testing.assert_allclose(found, sorted(zip(lengths, returns, strict=True)), atol=1e-5)
    assert sum(n_ended for _, n_ended in calls) == 5
    assert [n_steps for n_steps, _ in calls] == list(range(1, max(lengths) + 1))


def test_episodes_depend_on_their_seeds_alone() -> None:
    policy = make_policy(VECTOR, spaces.Discrete(3))
    together = run_episodes(policy, random_envs(4), 5)
    for alone, episode in zip(run_episodes(policy, random_envs(2), 7), together[2:], strict=True):
        assert alone == pytest.approx(episode)


def test_sampled_actions_depend_on_the_seed_with_state_dependent_exploration_too() -> None:
    env = make_vec_env("Pendulum-v1", 2)
    policy = make_policy(env.observation_space, env.action_space, use_sde=True)

    def returns(seed: int) -> list[float]:
        env.seed(0)
        return [episode["return"] for episode in run_episodes(policy, env, seed, deterministic=False)]

    first = returns(3)
    assert returns(4) != first
    assert returns(3) == first


def test_other_spaces_are_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"`env` must have the spaces of the model.*`additional_wrappers`"):
        run_episodes(make_policy(VECTOR, spaces.Discrete(3)), make_vec_env("CartPole-v1"), 0)


class Overflowing(RandomEnv):
    """Whose rewards are no numbers."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        obs, _, *ends = super().step(action)
        return obs, math.nan, *ends  # type: ignore[return-value]


def test_environments_may_leave_open_whether_an_episode_was_a_success() -> None:
    assert successes({"is_success": None, "turn_success": 0.5}) == {"turn_success": 0.5}


def test_models_are_compared_by_what_all_of_them_say() -> None:
    """Some environments report success, and nothing where there is none."""
    records = []
    for outcome in ({"is_success": 1.0}, {}):
        records.append(Record(None, {"n_episodes": 1}))
        records[-1].add_episodes([{"return": 2.0, "length": 3, **outcome}])
    table = compare_models(records)
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["return", "length"]


def test_rewards_that_are_no_numbers_are_refused() -> None:
    env = make_vec_env(lambda: Overflowing(VECTOR, spaces.Discrete(3)), 2)
    with pytest.raises(FloatingPointError, match="nan from environment 0, within 1 steps"):
        run_episodes(make_policy(VECTOR, spaces.Discrete(3)), env, 0)


@pytest.mark.parametrize(
    ("successes", "n", "interval"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_interval_has_published_values(successes: int, n: int, interval: tuple[float, float]) -> None:
    """Newcombe 1998, table I, method 3."""
    assert wilson_interval(successes / n, n) == pytest.approx(interval, abs=5e-5)
    low, high = wilson_interval(1 - successes / n, n)
    assert (1 - high, 1 - low) == pytest.approx(interval, abs=5e-5)

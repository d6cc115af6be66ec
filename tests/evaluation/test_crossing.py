"""Episodes that are crossed have the results of episodes that are stepped."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from corridor_helpers import corridor_policy
from sb3_elmur import ElmurPolicy
from sb3_elmur.envs import TMazeCuesVecEnv, TMazeRunesVecEnv, TMazeVecEnv
from sb3_elmur.envs.tmaze.base import MazeVecEnv
from sb3_elmur.envs.tmaze.config import NOISE
from sb3_elmur.evaluation import cross_episodes, known_segments, run_episodes, skipping
from sb3_elmur.evaluation.crossing import Crossing

MAZES: dict[str, tuple[type[MazeVecEnv], dict[str, Any]]] = {
    "one cue": (TMazeCuesVecEnv, {"n_cues": 1, "length": 20}),
    "cues in order": (TMazeCuesVecEnv, {"n_cues": 3, "length": 24, "corridor_length": (1, 6), "wrong_turn_ends": False}),
    "cues told": (TMazeCuesVecEnv, {"n_cues": 2, "length": 24, "order": "told", "reward": "eased"}),
    "passive": (TMazeVecEnv, {"length": 20, "hint_steps": 3, "reward": "penalty"}),
    "endless": (TMazeVecEnv, {"n_corridors": 3, "length": 12, "corridor_length": (1, 11), "reward": "eased"}),
    "runes": (TMazeRunesVecEnv, {"n_runes": 2, "length": 24, "corridor_length": (3, 22)}),
    "active": (TMazeVecEnv, {"active": True, "length": 12}),
}
architectures = st.fixed_dictionaries(
    {
        "segment_length": st.integers(1, 4),
        "memory_size": st.integers(1, 2),
        "n_layers": st.integers(1, 2),
        "blend": st.sampled_from(["fixed", "gated", "gated_recurrent"]),
        "gate_bias": st.sampled_from([-100.0, 0.0]),
        "separate_critic": st.booleans(),
    }
)


def maze_policy(env: MazeVecEnv, seed: int, right: float, **architecture: Any) -> ElmurPolicy:
    return corridor_policy(seed, right, (env.observation_space, env.action_space), **architecture)


def assert_crossing_equals_stepping(policy: ElmurPolicy, env: MazeVecEnv, seed: int) -> list[dict[str, float]]:
    crossed, stepped = cross_episodes(policy, env, seed), run_episodes(policy, env, seed)
    returns = [[episode.pop("return") for episode in episodes] for episodes in (crossed, stepped)]
    np.testing.assert_allclose(*returns, rtol=0, atol=1e-12)
    assert crossed == stepped
    return stepped


@pytest.mark.parametrize("maze", MAZES)
@given(architectures, st.integers(0, 10_000), st.floats(1.0, 8.0))
@settings(max_examples=2, deadline=None)
def test_crossing_equals_stepping(maze: str, architecture: dict[str, Any], seed: int, right: float) -> None:
    make, arguments = MAZES[maze]
    env = make(6, **arguments)
    policy = maze_policy(env, seed, right, **architecture)
    with mock.patch.object(known_segments, "MOST_BYTES", 20_000 if seed % 2 else 2**28):
        assert_crossing_equals_stepping(policy, env, seed)


@pytest.mark.parametrize("maze", MAZES)
def test_quiet_steps_show_nothing_but_noise_wherever_agents_go(maze: str) -> None:
    make, arguments = MAZES[maze]
    env, rng = make(6, **arguments, seed=0), np.random.default_rng(0)
    observations, quiet = env.reset(), env.quiet_steps()
    for _ in range(60):
        assert not observations[quiet > 0][:, np.arange(observations.shape[1]) != NOISE].any()
        observations, _, dones, _ = env.step(np.where(rng.random(6) < 0.7, 0, rng.integers(4, size=6)))
        assert not dones[quiet > 0].any()
        quiet = np.maximum(quiet - 1, env.quiet_steps())


@pytest.mark.parametrize("blend", ["gated", "gated_recurrent"])
def test_long_corridors_are_skipped_where_no_noise_changes_memory(blend: str) -> None:
    env = TMazeCuesVecEnv(6, n_cues=3, length=250, wrong_turn_ends=False)
    policy = maze_policy(env, 2, 30.0, blend=blend, gate_bias=-100.0, segment_length=2, memory_size=2, n_layers=1)
    with mock.patch.object(Crossing, "advance", autospec=True, side_effect=Crossing.advance) as advance:
        episodes = assert_crossing_equals_stepping(policy, env, 0)
    assert advance.call_count < 60  # of 125 segments
    assert sum(episode["turn_success"] for episode in episodes) > 0


def test_nothing_is_skipped_where_noise_changes_memory() -> None:
    env = TMazeCuesVecEnv(2, n_cues=1, length=30)
    policy = maze_policy(env, 5, 30.0, blend="fixed", segment_length=1, memory_size=1, n_layers=1)
    with mock.patch.object(skipping, "VISITS", 10**9):  # all noise is tried at once
        assert_crossing_equals_stepping(policy, env, 0)
        crossing = Crossing(policy, env, 0)
        while crossing.running.any():
            before = crossing.time
            crossing.advance()
            assert crossing.time == before + 1


def test_a_recurrent_baseline_is_crossed_too() -> None:
    env = TMazeCuesVecEnv(8, n_cues=2, length=20, wrong_turn_ends=False)
    assert_crossing_equals_stepping(maze_policy(env, 3, 6.0, core="lstm", segment_length=4), env, 3)


def test_steps_and_ends_are_reported() -> None:
    env = TMazeCuesVecEnv(8, n_cues=2, length=20)
    policy = maze_policy(env, 3, 6.0, segment_length=4)
    calls: list[tuple[int, int]] = []
    episodes = cross_episodes(policy, env, 3, lambda *call: calls.append(call))
    assert sum(n_ended for _, n_ended in calls) == len(episodes) == 8
    assert [time for time, _ in calls] == sorted(time for time, _ in calls)
    assert calls[-1][0] >= max(episode["length"] for episode in episodes)


def test_a_policy_for_other_cues_is_refused() -> None:
    policy = maze_policy(TMazeCuesVecEnv(1, n_cues=2), 0, 1.0)
    with pytest.raises(ValueError, match="spaces do not match"):
        cross_episodes(policy, TMazeCuesVecEnv(1, n_cues=3), 0)


def test_modes_of_the_policy_do_not_matter() -> None:
    env = TMazeCuesVecEnv(4, n_cues=2, length=20)
    policy = maze_policy(env, 1, 5.0, segment_length=3, dropout=0.5)
    policy.set_training_mode(True)
    assert_crossing_equals_stepping(policy, env, 1)
    assert not th.is_inference_mode_enabled()

"""Corridors are crossed by segments as they are stepped, whatever interrupts it."""

import tracemalloc
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from corridor_helpers import N_AGENTS, SPACES, corridor_policy, stepped, walked
from helpers import VECTOR, make_policy
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.envs.tmaze import noise as maze_noise
from sb3_elmur.envs.tmaze.noise import NOISE_BLOCK
from sb3_elmur.evaluation import Corridors, run_episodes, skipping
from sb3_elmur.evaluation import known_segments as evaluation
from sb3_elmur.evaluation.record import load_walk, save_walk

architectures = st.fixed_dictionaries(
    {
        "segment_length": st.integers(1, 5),
        "memory_size": st.integers(1, 3),
        "n_layers": st.integers(1, 2),
        "blend": st.sampled_from(["fixed", "gated"]),
        "lru_blend": st.sampled_from([0.0, 0.5]),  # with 0 memory does not change, so that segments repeat
        "separate_critic": st.booleans(),
        "norm_first": st.booleans(),
    }
)
seeds = st.integers(0, 10_000)


def assert_results_equal_stepping(corridors: Corridors, seed: int) -> None:
    assert list(corridors.results) == corridors.lengths
    for length, successes in corridors.results.items():
        assert successes.tolist() == stepped(corridors.policy, length, len(successes), seed), length


@given(architectures, seeds, st.floats(1.0, 8.0), st.sets(st.integers(3, 16), min_size=1, max_size=4))
@settings(max_examples=6, deadline=None)
def test_corridors_equal_stepping(architecture: dict[str, Any], seed: int, right: float, lengths: set[int]) -> None:
    policy = corridor_policy(seed, right, **architecture)
    with mock.patch.object(evaluation, "MOST_BYTES", 20_000 if seed % 2 else 2**28):
        corridors = walked(Corridors(policy, list(lengths), N_AGENTS, seed))
    assert_results_equal_stepping(corridors, seed)


@pytest.mark.parametrize(
    ("seed", "lengths", "architecture"),
    [
        (5, range(3, 14), {"segment_length": 4}),
        (14, [4, 6, 9], {"segment_length": 1, "memory_size": 1, "lru_blend": 0.0}),  # wastes steps in repeated segments
    ],
)
def test_lengths_around_segment_borders_equal_stepping(
    seed: int, lengths: Sequence[int], architecture: dict[str, Any]
) -> None:
    policy = corridor_policy(seed, n_layers=1, **architecture)
    corridors = walked(Corridors(policy, lengths, N_AGENTS, seed))
    assert_results_equal_stepping(corridors, seed)
    assert sum(successes.sum() for successes in corridors.results.values()) > 0


def test_known_segments_are_looked_up_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maze_noise, "NOISE_BLOCK", NOISE_BLOCK // 8)
    length = NOISE_BLOCK // 8 + 5
    policy = corridor_policy(right=20.0, lru_blend=0.0, segment_length=2, n_layers=1)
    expected = stepped(policy, length, 3, seed=2)
    n_computed = []
    for most_bytes in (2**28, 5_000):
        monkeypatch.setattr(evaluation, "MOST_BYTES", most_bytes)
        corridors = Corridors(policy, [length // 2, length], 3, seed=2)
        with mock.patch.object(policy, "replay", wraps=policy.replay) as replay:
            assert walked(corridors).results[length].tolist() == expected
        n_computed.append(replay.call_count)
    assert n_computed[0] < n_computed[1]


@given(architectures, seeds, st.integers(0, 12))
@settings(max_examples=5, deadline=None)
def test_interrupted_walk_goes_on_alike(
    tmp_path_factory: pytest.TempPathFactory, architecture: dict[str, Any], seed: int, n_segments: int
) -> None:
    policy = corridor_policy(seed, **architecture)
    arguments = (policy, [3, 8, 17, 25], N_AGENTS, seed)
    path = tmp_path_factory.mktemp("walk") / "walk.npz"
    save_walk(path, walked(Corridors(*arguments), n_segments).walk, {"seed": seed})
    resumed = Corridors(*arguments, load_walk(path, {"seed": seed}, policy.initial_memories(N_AGENTS)[0]))
    uninterrupted = walked(Corridors(*arguments))
    walked(resumed)
    assert resumed.time == uninterrupted.time
    np.testing.assert_equal(resumed.results, uninterrupted.results)


def test_agents_that_are_lost_cost_nothing() -> None:
    policy = corridor_policy()
    with th.no_grad():
        policy.action_net.bias.copy_(th.tensor([0.0, 1e6, 0.0, 0.0]))
    corridors = Corridors(policy, [5, 10**9], N_AGENTS, seed=0)
    with mock.patch.object(policy, "replay", wraps=policy.replay) as replay:
        walked(corridors)
    assert replay.call_count == 1
    assert [successes.any() for successes in corridors.results.values()] == [False, False]


@pytest.mark.parametrize("seed", range(3))
def test_corridors_are_skipped_up_to_the_next_turn_where_memory_is_kept(seed: int) -> None:
    kept: dict[str, Any] = {"blend": "gated", "gate_bias": -100.0, "segment_length": 2, "memory_size": 2, "n_layers": 1}
    corridors = Corridors(corridor_policy(seed, 30.0, **kept), [97, 250, 500], N_AGENTS, seed)
    with mock.patch.object(Corridors, "advance", autospec=True, side_effect=Corridors.advance) as advance:
        walked(corridors)
    assert advance.call_count < 60  # of 250 segments
    assert_results_equal_stepping(corridors, seed)


def test_nothing_is_skipped_where_noise_changes_memory() -> None:
    policy = corridor_policy(5, 30.0, blend="fixed", segment_length=1, memory_size=1, n_layers=1)
    with mock.patch.object(skipping, "VISITS", 10**9):  # all noise is tried at once
        corridors = Corridors(policy, [30], 4, seed=0)
        while not corridors.finished:
            before = corridors.time
            corridors.advance()
            assert corridors.time == before + 1
    assert_results_equal_stepping(corridors, 0)


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a policy whose memory never repeats."""
    monkeypatch.setattr(evaluation, "MOST_BYTES", 400_000)
    corridors = Corridors(corridor_policy(right=30.0), [100_000], 50, seed=0)
    walked(corridors, 2)
    sizes = []
    tracemalloc.start()
    for _ in range(25):
        walked(corridors, 2)
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(sizes) < 400_000 + 50_000
    assert sum(np.diff(sizes) < -100_000) > 1


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([10, 2], r"`lengths`.* 3\. Received 2\."),
        ([10, 3.5], r"`lengths`.* Received 3\.5\."),
        ([10, 3, 10], r"`lengths`.* Received \[10, 3, 10\]\."),
        ([], r"`lengths`.* Received \[\]\."),
    ],
)
def test_errors_name_lengths_and_the_value(lengths: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Corridors(corridor_policy(), lengths, 2, seed=0)


def test_policy_for_another_environment_is_refused() -> None:
    for policy in (make_policy(VECTOR, SPACES[1]), make_policy(SPACES[0], spaces.Discrete(3))):
        with pytest.raises(ValueError, match=r"spaces do not match: .* != "):
            Corridors(policy, [10], 2, seed=0)
        with pytest.raises(ValueError, match=r"spaces do not match: .* != "):
            run_episodes(policy, TMazeVecEnv(2), seed=0)

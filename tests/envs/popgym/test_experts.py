"""Scripted experts of POPGym: valid, reproducible, from observations alone, and as good as they claim."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest

from sb3_elmur.envs.popgym.experts import Expert, make_expert
from sb3_elmur.envs.popgym.tasks import LEVELS, TASKS

pytest.importorskip("popgym", reason="popgym is not installed")
pytest.importorskip("mazelib", reason="mazelib, which POPGym's Labyrinths need, is not installed")

EXACT_FAMILIES = (
    "Autoencode",
    "CountRecall",
    "PositionOnlyCartPole",
    "RepeatFirst",
    "RepeatPrevious",
    "VelocityOnlyCartPole",
)
# family: episodes, and the least mean return of each level
LEAST_RETURNS: dict[str, tuple[int, tuple[float, float, float]]] = {
    "Battleship": (20, (0.5, 0.5, 0.5)),
    "Concentration": (5, (0.75, 0.77, 0.66)),
    "HigherLower": (10, (0.45, 0.45, 0.45)),
    "LabyrinthEscape": (5, (0.93, 0.85, 0.8)),
    "LabyrinthExplore": (3, (0.93, 0.88, 0.8)),
    "MineSweeper": (20, (0.5, 0.35, 0.35)),
    "MultiarmedBandit": (5, (0.5, 0.65, 0.75)),
    "NoisyPositionOnlyCartPole": (10, (0.9, 0.45, 0.25)),
    "NoisyPositionOnlyPendulum": (5, (0.8, 0.65, 0.58)),
    "PositionOnlyPendulum": (5, (0.83, 0.8, 0.7)),
}


class Step(NamedTuple):
    """What led to an observation, the observation, and what the expert then did."""

    action: Any
    observation: Any
    answer: Any


def make_env(task: str) -> Any:
    import popgym.envs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(popgym.envs, task)()


def play(env: Any, expert: Expert, seed: int, n_random: int = 0, max_steps: int = 10_000) -> tuple[list[Step], float, bool]:
    """Play an episode, its first ``n_random`` steps at random; return the steps, the return, and whether it terminated."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    action, total, terminated, truncated, steps = None, 0.0, False, False, list[Step]()
    while not (terminated or truncated) and len(steps) < max_steps:
        expert.observe(observation, action)
        answer = expert.act()
        steps.append(Step(action, observation, answer))
        action = env.action_space.sample() if len(steps) <= n_random else answer
        observation, reward, terminated, truncated, _ = env.step(action)
        total += reward
    return steps, total, terminated


def mean_return(task: str, n_episodes: int) -> float:
    env, expert = make_env(task), make_expert(task)
    return float(np.mean([play(env, expert, seed)[1] for seed in range(n_episodes)]))


def test_there_is_an_expert_for_every_task() -> None:
    import popgym.envs

    assert set(TASKS) == {cls.__name__ for cls in popgym.envs.ALL}
    assert len(TASKS) == 48


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`task`.* AutoencodeEasy.* 'RepeatFirst'"):
        make_expert("RepeatFirst")


@pytest.mark.parametrize("task", TASKS)
def test_actions_are_valid_and_asking_again_changes_nothing(task: str) -> None:
    env, expert = make_env(task), make_expert(task)
    for step in play(env, expert, seed=3, n_random=20, max_steps=120)[0]:
        assert env.action_space.contains(step.answer)
    np.testing.assert_array_equal(expert.act(), expert.act())


@pytest.mark.parametrize("task", TASKS)
def test_answers_follow_from_what_the_episode_showed(task: str) -> None:
    env, expert = make_env(task), make_expert(task)
    play(env, expert, seed=0, max_steps=60)
    recorded = play(env, expert, seed=1, n_random=10, max_steps=60)[0]
    fresh = make_expert(task)
    for i, step in enumerate(recorded):
        fresh.observe(step.observation, step.action)
        for _ in range(i % 3):  # however often it is asked
            np.testing.assert_array_equal(fresh.act(), step.answer)


@pytest.mark.parametrize("task", [family + level for family in EXACT_FAMILIES for level in LEVELS])
def test_exact_experts_return_one(task: str) -> None:
    env, expert = make_env(task), make_expert(task)
    for seed in range(3):
        assert play(env, expert, seed)[1] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("task", "n_episodes", "least"),
    [
        (family + level, n_episodes, least)
        for family, (n_episodes, leasts) in LEAST_RETURNS.items()
        for level, least in zip(LEVELS, leasts, strict=True)
    ],
)
def test_other_experts_return_what_they_should(task: str, n_episodes: int, least: float) -> None:
    assert mean_return(task, n_episodes) >= least


@pytest.mark.parametrize("task", ["LabyrinthEscapeMedium", "LabyrinthExploreEasy"])
@pytest.mark.parametrize("seed", range(4))
def test_dead_reckoning_survives_moves_of_others(task: str, seed: int) -> None:
    _, _, terminated = play(make_env(task), make_expert(task), seed, n_random=60)
    assert terminated


@pytest.mark.parametrize("task", ["PositionOnlyCartPoleEasy", "VelocityOnlyCartPoleEasy"])
def test_velocity_estimates_survive_pushes_of_others(task: str) -> None:
    env, expert = make_env(task), make_expert(task)
    for seed in range(5):
        steps, _, terminated = play(env, expert, seed, n_random=4)
        assert not terminated
        assert len(steps) == 200


def test_concentration_finishes_after_turns_of_others() -> None:
    env, expert = make_env("ConcentrationEasy"), make_expert("ConcentrationEasy")
    assert all(play(env, expert, seed, n_random=7)[2] for seed in range(5))


def test_shooting_again_at_a_ship_does_not_mislead() -> None:
    env, expert = make_env("BattleshipEasy"), make_expert("BattleshipEasy")
    observation, _ = env.reset(seed=0)
    expert.observe(observation, None)
    while not observation:
        action = expert.act()
        observation, *_ = env.step(action)
        expert.observe(observation, action)
    answer = expert.act()
    observation, *_ = env.step(action)
    assert observation == 0
    expert.observe(observation, action)
    np.testing.assert_array_equal(expert.act(), answer)


@pytest.mark.parametrize("seed", range(5))
def test_minesweeper_opens_the_least_dangerous_cell(seed: int) -> None:
    width, n_mines = 6, 6
    env, expert = make_env("MineSweeperMedium"), make_expert("MineSweeperMedium")
    steps = play(env, expert, seed)[0]
    order = np.random.default_rng(seed).random((50_000, width**2)).argsort(axis=1)
    boards = (order < n_mines).reshape(-1, width, width)
    opened = np.zeros((width, width), dtype=bool)
    for step in steps[1:]:
        row, column = step.action
        opened[row, column] = True
        near = boards[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].sum(axis=(1, 2))
        boards = boards[~boards[:, row, column] & (near == step.observation)]
        if len(boards) < 100:
            break
        danger = boards.mean(axis=0)
        assert danger[tuple(step.answer)] <= danger[~opened].min() + 4 * np.sqrt(0.25 / len(boards))

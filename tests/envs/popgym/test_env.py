"""Properties of POPGym's 48 tasks as environments for Stable-Baselines3."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled, ResetNeeded
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env

from helpers import SMALL
from sb3_elmur import RecurrentPPO
from sb3_elmur.envs import POPGymEnv
from sb3_elmur.envs.popgym.experts import make_expert
from sb3_elmur.envs.popgym.render import PICTURES
from sb3_elmur.envs.popgym.tasks import TASKS

pytestmark = pytest.mark.filterwarnings("ignore:Maze environments", "ignore:.*Box observation space", "ignore:.*symmetric")
all_tasks = pytest.mark.parametrize("task", TASKS)


@pytest.fixture
def popgym() -> Any:
    pytest.importorskip("mazelib", reason="mazelib is not installed: pip install 'sb3-elmur[popgym]'")
    return pytest.importorskip("popgym", reason="popgym is not installed: pip install 'sb3-elmur[popgym]'")


def play(env: gymnasium.Env, seed: int | None, n_steps: int = 30) -> list[tuple[Any, ...]]:
    """Observations, rewards and ends of a run under actions that depend on nothing but the space."""
    env.action_space.seed(0)
    run: list[tuple[Any, ...]] = [env.reset(seed=seed)]
    for _ in range(n_steps):
        run.append(env.step(env.action_space.sample()))
        if run[-1][2] or run[-1][3]:
            run.append(env.reset())
    return run


def differ(left: list[tuple[Any, ...]], right: list[tuple[Any, ...]]) -> bool:
    return any((one[0] != other[0]).any() or one[1:] != other[1:] for one, other in zip(left, right, strict=True))


def global_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2:]


def test_the_ids_are_the_48_tasks_that_popgym_registers(popgym: Any) -> None:
    ids = {env_id for env_id in gymnasium.registry if env_id.startswith("POPGym")}
    assert ids == {f"POPGym{cls.__name__}-v0" for cls in popgym.envs.ALL}
    assert len(ids) == 48


@all_tasks
def test_every_task_is_made_by_id_and_passes_sb3s_checker(popgym: Any, task: str) -> None:
    env = gymnasium.make(f"POPGym{task}-v0")
    assert env.spec is not None
    assert env.spec.max_episode_steps is None
    check_env(env.unwrapped)
    assert env.unwrapped.task == task


@all_tasks
def test_observations_are_popgyms_wrappers_in_float32(popgym: Any, task: str) -> None:
    wrappers = pytest.importorskip("popgym.wrappers", reason="popgym lacks its wrappers")
    env, base = POPGymEnv(task), POPGymEnv(task).base
    if isinstance(base.action_space, spaces.MultiDiscrete):
        base = wrappers.DiscreteAction(base)
    theirs = wrappers.Flatten(wrappers.Antialias(wrappers.PreviousAction(base)))
    assert env.action_space == theirs.action_space
    assert env.observation_space.dtype == np.float32
    np.testing.assert_array_equal(env.observation_space.low, theirs.observation_space.low.astype(np.float32))
    np.testing.assert_array_equal(env.observation_space.high, theirs.observation_space.high.astype(np.float32))
    ours, expected = play(env, seed=7), play(theirs, seed=7)
    for (observation, *result, info), (their_observation, *their_result, _) in zip(ours, expected, strict=True):
        assert observation.dtype == np.float32
        assert env.observation_space.contains(observation)
        np.testing.assert_array_equal(observation, np.asarray(their_observation, dtype=np.float32))
        assert result == their_result
        assert info == {}


@all_tasks
def test_one_seed_gives_one_run_whatever_else_draws(popgym: Any, task: str) -> None:
    env, other = POPGymEnv(task), POPGymEnv(task)
    first = play(env, seed=3)
    random.seed(9), np.random.seed(9)
    before = global_states()
    other.reset(seed=5)
    env.reset(seed=3)
    assert global_states() == before
    env.action_space.seed(0)
    second = [env.reset(seed=3)]
    for _ in range(30):
        random.random(), np.random.random(), other.reset()
        second.append(env.step(env.action_space.sample()))
        if second[-1][2] or second[-1][3]:
            second.append(env.reset())
    assert not differ(first, second)
    assert differ(first, play(env, seed=4)) or differ(first, play(env, seed=5))


@pytest.mark.parametrize("task", ["LabyrinthEscapeEasy", "LabyrinthExploreEasy", "RepeatFirstEasy"])
def test_environments_without_a_seed_differ(popgym: Any, task: str) -> None:
    random.seed(0), np.random.seed(0)
    one = play(POPGymEnv(task), seed=None)
    random.seed(0), np.random.seed(0)
    assert differ(one, play(POPGymEnv(task), seed=None))


def test_labyrinths_change_from_episode_to_episode(popgym: Any) -> None:
    env = POPGymEnv("LabyrinthEscapeEasy")
    env.reset(seed=0)
    mazes = []
    for _ in range(5):
        env.reset()
        mazes.append(env.base.maze.grid.tobytes())
    assert len(set(mazes)) == 5


def test_ends_are_popgyms(popgym: Any) -> None:
    """A deck runs out, which terminates; a time limit truncates."""
    for task, ends in (("RepeatPreviousEasy", (51, True, False)), ("MultiarmedBanditEasy", (200, False, True))):
        env = POPGymEnv(task)
        env.reset(seed=0)
        n_steps, terminated, truncated = 0, False, False
        while not (terminated or truncated):
            _, _, terminated, truncated, _ = env.step(0)
            n_steps += 1
        assert (n_steps, terminated, truncated) == ends
        for call in (lambda env=env: env.step(0), env.oracle_action):
            with pytest.raises(ResetNeeded):
                call()


class Scribe:
    """An expert that writes down what it is shown and acts by it."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Any]] = []

    def observe(self, observation: Any, action: Any) -> None:
        self.seen = [] if action is None else self.seen
        self.seen.append((observation, action))

    def act(self) -> int:
        return len(self.seen) % 4


@pytest.fixture
def scribe(popgym: Any, monkeypatch: pytest.MonkeyPatch) -> Scribe:
    """The expert that every task gets."""
    expert = Scribe()
    monkeypatch.setattr("sb3_elmur.envs.popgym.env.make_expert", lambda task: expert)
    return expert


def test_the_expert_sees_the_raw_observations_of_the_running_episode(scribe: Scribe) -> None:
    env = POPGymEnv("AutoencodeEasy")
    env.reset(seed=0)
    env.step(1)
    env.reset(seed=1)
    assert scribe.seen == []
    for action in (1, 3, 2):
        env.step(action)
    assert env.oracle_action() == env.oracle_action() == 0
    env.step(0)
    assert env.oracle_action() == 1
    observations, actions = zip(*scribe.seen, strict=True)
    assert actions == (None, 1, 3, 2, 0)
    suits = env.base.deck.suits_idx[env.base.deck["system"]]
    assert [tuple(observation) for observation in observations] == [(1, suit) for suit in suits]


def test_the_expert_is_reached_through_gymnasium_and_sb3(scribe: Scribe) -> None:
    env = gymnasium.make("POPGymRepeatFirstEasy-v0")
    env.reset(seed=0)
    assert env.get_wrapper_attr("oracle_action")() == 1
    venv = make_vec_env("POPGymRepeatFirstEasy-v0", 2, seed=0)
    venv.reset()
    assert venv.env_method("oracle_action") == [1, 1]


@pytest.mark.parametrize("task", ["RepeatFirstEasy", "BattleshipEasy", "PositionOnlyPendulumEasy"])
def test_elmur_trains(popgym: Any, task: str) -> None:
    """Actions of a task, cells of a board, and continuous ones."""
    env = make_vec_env(f"POPGym{task}-v0", 2, seed=0)
    model = RecurrentPPO("ElmurPolicy", env, n_steps=32, batch_size=32, n_epochs=1, policy_kwargs=SMALL, seed=0)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(128)
    after = list(model.policy.parameters())
    assert any((old != new).any() for old, new in zip(before, after, strict=True))
    assert all(parameter.isfinite().all() for parameter in after)


def test_what_it_cannot_do_is_refused_by_name(popgym: Any) -> None:
    with pytest.raises(ValueError, match=r"`task`.* AutoencodeEasy.* 'Chess'"):
        POPGymEnv("Chess")
    with pytest.raises(ValueError, match=r"`render_mode`.* 'ansi'"):
        POPGymEnv("RepeatFirstEasy", render_mode="ansi")
    env = POPGymEnv("MineSweeperEasy")
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"`action`.* -1"):
        env.step(-1)


@pytest.mark.parametrize("task", ["BattleshipEasy", "MineSweeperMedium"])
def test_experts_see_and_choose_rows_and_columns_where_agents_count_cells(popgym: Any, task: str) -> None:
    env, expert = POPGymEnv(task), make_expert(task)
    env.reset(seed=0)
    observation, action = 0, None
    for _ in range(6):
        expert.observe(observation, action)
        action = expert.act()
        cell = env.oracle_action()
        assert divmod(cell, env.base.action_space.nvec[1]) == tuple(action)
        flat, _, terminated, *_ = env.step(cell)
        assert not terminated
        observation = int(flat[: env.base.observation_space.n].argmax())


@pytest.fixture
def pygame(popgym: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return pytest.importorskip("pygame", reason="pygame is not installed: pip install 'sb3-elmur[render]'")


@all_tasks
def test_advertised_render_modes_work(pygame: Any, task: str) -> None:
    gymnasium_check_env(gymnasium.make(f"POPGym{task}-v0", disable_env_checker=True).unwrapped)


@pytest.mark.parametrize("task", [name for name, facts in TASKS.items() if facts.family in PICTURES])
def test_pictures_of_games_follow_the_episode(pygame: Any, task: str) -> None:
    env = POPGymEnv(task, render_mode="rgb_array")
    env.reset(seed=0)
    images = [env.render()]
    for _ in range(8):
        _, _, terminated, truncated, _ = env.step(env.oracle_action())
        images.append(env.render())
        if terminated or truncated:
            break
    assert {image.shape for image in images} == {(400, 720, 3)}
    assert {image.dtype for image in images} == {np.dtype(np.uint8)}
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize(
    ("task", "hide"),
    [
        ("AutoencodeEasy", lambda base: base.deck["system"].append(0)),
        ("BattleshipEasy", lambda base: base.board.fill(0)),
        ("ConcentrationEasy", lambda base: np.random.default_rng(0).shuffle(base.deck.idx)),
        ("CountRecallEasy", lambda base: base.counts.fill(0)),
        ("HigherLowerEasy", lambda base: base.state.fill(0)),
        ("LabyrinthEscapeEasy", lambda base: base.maze.grid.fill(0)),
        ("MineSweeperEasy", lambda base: base.hidden_grid.fill(0)),
        ("MultiarmedBanditEasy", lambda base: base.bandits.fill(0)),
    ],
)
def test_pictures_of_games_show_what_is_hidden(pygame: Any, task: str, hide: Callable[[Any], None]) -> None:
    env = POPGymEnv(task, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    hide(env.base)
    assert (env.render() != before).any()


def test_human_mode_shows_every_step_of_a_game_and_closes(pygame: Any) -> None:
    env = POPGymEnv("BattleshipEasy", render_mode="human")
    env.reset(seed=0)
    assert pygame.display.get_surface().get_size() == (720, 400)
    before = pygame.surfarray.array3d(pygame.display.get_surface())
    env.step(0)
    assert (pygame.surfarray.array3d(pygame.display.get_surface()) != before).any()
    env.close()
    env.close()
    assert not pygame.display.get_init()


def test_rendering_without_a_mode_warns_and_before_reset_is_refused(popgym: Any) -> None:
    with pytest.warns(UserWarning, match="render_mode"):
        assert POPGymEnv("PositionOnlyCartPoleEasy").render() is None
    for task in ("RepeatFirstEasy", "PositionOnlyCartPoleEasy"):
        with pytest.raises(ResetNeeded):
            POPGymEnv(task, render_mode="rgb_array").render()


@pytest.mark.parametrize("missing", ["popgym", "mazelib"])
def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DependencyNotInstalled, match=rf'{missing}.*`pip install "sb3-elmur\[popgym\]"`'):
        gymnasium.make("POPGymRepeatFirstEasy-v0")

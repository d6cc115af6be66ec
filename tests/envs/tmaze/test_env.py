"""Properties of the T-Maze: the single environment, its batch, its ids and its pictures."""

from __future__ import annotations

import re
import runpy
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from maze_helpers import (
    DOWN,
    LEFT,
    RIGHT,
    UP,
    arguments,
    assert_batch_equals_singles,
    assert_same,
    play_oracle,
    refusal,
    started,
)
from sb3_elmur.envs import TMazeConfig, TMazeEnv, TMazeVecEnv, drawing, register_envs
from sb3_elmur.envs.tmaze.config import REWARDS
from sb3_elmur.envs.tmaze.noise import NOISE_BLOCK

IDS = sorted(id for id, spec in gymnasium.registry.items() if spec.entry_point == "sb3_elmur.envs.tmaze:TMazeEnv")


def rewards_of(env: TMazeEnv, actions: list[int]) -> list[float]:
    return [env.step(action)[1] for action in actions]


# The single environment


@given(arguments(), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_every_observation_lies_in_the_space_and_matches_the_state(arguments: dict[str, Any], seed: int) -> None:
    env = TMazeEnv(**arguments)
    observation, _ = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    terminated = False
    while True:
        visible = env.x == -1 if arguments["active"] else env.steps < arguments["hint_steps"]
        assert env.observation_space.contains(observation)
        assert observation[:3].tolist() == [env.y, env.goal if visible else 0, env.x == env.corridor]
        if terminated:
            break
        observation, _, terminated, truncated, _ = env.step(int(rng.choice([env.oracle_action(), rng.integers(4)])))
        assert not truncated


@pytest.mark.parametrize("hint_steps", [1, 2, 4])
def test_passive_hint_shows_in_the_first_observations_only(hint_steps: int) -> None:
    env = TMazeEnv(length=8, hint_steps=hint_steps)
    hints = [env.reset(seed=3)[0][1]] + [env.step(RIGHT)[0][1] for _ in range(6)]
    assert hints == [env.goal] * hint_steps + [0] * (7 - hint_steps)


def test_active_hint_shows_at_the_oracle_cell_only() -> None:
    env = TMazeEnv(length=12, active=True)
    hints = [env.reset(seed=3)[0][1]] + [env.step(action)[0][1] for action in (LEFT, LEFT, RIGHT, RIGHT, LEFT, LEFT)]
    assert hints == [0, env.goal, env.goal, 0, 0, 0, env.goal]


def test_flag_shows_at_the_junction_and_its_ends_only() -> None:
    env = started(length=5)
    assert [env.step(action)[0][2] for action in (RIGHT, RIGHT, RIGHT, UP)] == [0, 0, 1, 1]


def test_invalid_moves_stay_in_place() -> None:
    env = started(length=20, corridor_length=2)
    positions = []
    for action in (LEFT, UP, DOWN, RIGHT, UP, DOWN, RIGHT, RIGHT, LEFT):
        env.step(action)
        positions.append((env.x, env.y))
    assert positions == [(0, 0)] * 3 + [(1, 0)] * 3 + [(2, 0)] * 2 + [(1, 0)]


def test_noise_is_uniform_over_three_values_and_fresh() -> None:
    env = TMazeEnv(length=3002)
    noise = [env.reset(seed=0)[0][3]] + [env.step(RIGHT)[0][3] for _ in range(3000)]
    values, counts = np.unique(noise, return_counts=True)
    assert values.tolist() == [-1, 0, 1]
    assert np.abs(counts / len(noise) - 1 / 3).max() < 0.05
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.06


def test_turn_terminates_with_the_reward_of_the_side() -> None:
    for turn in (UP, DOWN):
        env = started(length=3)
        env.step(RIGHT)
        _, reward, terminated, truncated, info = env.step(turn)
        success = (turn == UP) == (env.goal > 0)
        assert (reward, terminated, truncated) == (float(success), True, False)
        assert info == {"is_success": success, "turn_success": float(success)}


@pytest.mark.parametrize("reward", REWARDS)
def test_deadline_terminates_with_reward_zero(reward: str) -> None:
    env = started(length=4, reward=reward)
    steps = [env.step(LEFT) for _ in range(4)]
    assert [step[2] for step in steps] == [False, False, False, True]
    assert not any(step[3] for step in steps)
    assert [step[4] for step in steps] == [{}, {}, {}, {"is_success": False, "turn_success": 0.0}]
    assert steps[-1][1] == 0.0


def test_turn_on_the_last_step_counts() -> None:
    env = started(length=4)
    rewards_of(env, [LEFT, RIGHT, RIGHT])
    assert env.step(env.oracle_action())[1:] == (1.0, True, False, {"is_success": True, "turn_success": 1.0})


def test_sparse_reward_is_zero_before_the_end() -> None:
    assert rewards_of(started(length=6), [RIGHT, LEFT, UP, RIGHT, RIGHT]) == [0.0] * 5


def test_penalty_reward_falls_due_behind_schedule() -> None:
    assert rewards_of(started(length=9, reward="penalty"), [RIGHT, LEFT, RIGHT, RIGHT]) == [0.0] + [-1 / 8] * 3
    active = started(length=9, reward="penalty", active=True)
    assert rewards_of(active, [LEFT, RIGHT, RIGHT, UP, RIGHT]) == [0.0] * 3 + [-1 / 8] * 2
    assert rewards_of(started(length=9, reward="penalty", active=True), [RIGHT, LEFT, LEFT]) == [0.0, 0.0, -1 / 8]


def test_eased_reward_punishes_every_step_that_does_not_advance() -> None:
    assert rewards_of(started(length=8, reward="eased"), [RIGHT, LEFT, UP, RIGHT]) == [0.0, -1 / 8, -1 / 8, 0.0]
    active = started(length=8, reward="eased", active=True)
    assert rewards_of(active, [LEFT, LEFT, RIGHT, LEFT, RIGHT]) == [0.0, -1 / 8, 0.0, -1 / 8, 0.0]


def published_rewards(cells: int, oracle: int, goal: int, actions: list[int]) -> tuple[list[float], list[int]]:
    """
    Rewards and hints of the maze of Ni et al. 2023 (Memory-RL), which lasts cells + 2 oracle + 1 steps whatever happens.

    Places count from the oracle, which lies ``oracle`` cells left of the start.
    """
    x, y, rewards, hints = oracle, 0, [], []
    visited = oracle == 0
    for t, action in enumerate(actions, start=1):
        dx, dy = ((1, 0), (0, 1), (-1, 0), (0, -1))[action]
        at_junction = x == oracle + cells
        if (dx and y == 0 and 0 <= x + dx <= oracle + cells) or (dy and at_junction and abs(y + dy) <= 1):
            x, y = x + dx, y + dy
        last = t == cells + 2 * oracle + 1
        rewards.append(float(y == goal) if last else -1 / cells * (x < t - oracle))
        hints.append(goal if x == 0 and not visited else 0)
        visited |= x == 0
    return rewards, hints


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_passive_maze_can_be_that_of_memory_rl(cells: int, seed: int) -> None:
    env = started(seed, length=cells + 1, corridor_length=cells, reward="penalty")
    goal, rng = env.goal, np.random.default_rng(seed)
    actions = rng.choice([RIGHT, UP, LEFT, DOWN], size=cells + 1, p=[0.85, 0.05, 0.05, 0.05]).tolist()
    steps = [env.step(action) for action in actions]
    assert [step[2] for step in steps] == [False] * cells + [True]
    rewards, hints = published_rewards(cells, 0, goal, actions)
    assert [step[1] for step in steps] == rewards
    assert [step[0][1] for step in steps] == hints


def test_the_active_maze_differs_from_that_of_memory_rl_as_its_card_says() -> None:
    cells = 4
    env = started(length=cells + 3, corridor_length=cells, reward="penalty", active=True)
    actions = [LEFT, RIGHT, LEFT, RIGHT]
    steps = [env.step(action) for action in actions]
    rewards, hints = published_rewards(cells, 1, env.goal, actions)
    assert rewards == [0.0, 0.0, -1 / cells, -1 / cells]
    assert [step[1] for step in steps] == [0.0, 0.0, -1 / (cells + 2), -1 / (cells + 2)]
    assert hints == [env.goal, 0, 0, 0]
    assert [step[0][1] for step in steps] == [env.goal, 0, env.goal, 0]
    env.reset(seed=0)
    early = [RIGHT] * cells + [env.goal % 4]  # 1 is up, and -1 % 4 is down
    *_, last = [env.step(action) for action in early]
    assert last[1:3] == (1.0, True)
    assert published_rewards(cells, 1, env.goal, early)[0][-1] == 0.0  # its episode goes on


@given(arguments(), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_oracle_returns_exactly_one(arguments: dict[str, Any], seed: int) -> None:
    env = started(seed, **arguments)
    rewards, info = play_oracle(env)
    assert sum(rewards) == 1.0
    assert len(rewards) == env.corridor + (3 if arguments["active"] else 1)
    assert info == {"is_success": True, "turn_success": 1.0}


def test_random_turn_succeeds_half_the_time() -> None:
    env = TMazeEnv(length=3)
    env.reset(seed=0)
    successes = []
    for turn in np.random.default_rng(1).choice([UP, DOWN], size=2000):
        env.step(RIGHT)
        successes.append(env.step(turn)[1])
        env.reset()
    assert abs(np.mean(successes) - 0.5) < 0.05


def test_corridor_lengths_are_uniform_over_the_inclusive_range() -> None:
    env = TMazeEnv(corridor_length=(3, 5))
    corridors = []
    for episode in range(1500):
        env.reset(seed=None if episode else 0)
        corridors.append(env.corridor)
    values, counts = np.unique(corridors, return_counts=True)
    assert values.tolist() == [3, 4, 5]
    assert np.abs(counts / 1500 - 1 / 3).max() < 0.05


def test_same_seed_repeats_and_no_seed_continues() -> None:
    env = TMazeEnv(corridor_length=(1, 28))

    def episodes(seed: int) -> list[tuple[int, int, list[float]]]:
        drawn = []
        for reset_seed in (seed, None, None, None):
            observation, _ = env.reset(seed=reset_seed)
            drawn.append((env.goal, env.corridor, [observation[3]] + [env.step(LEFT)[0][3] for _ in range(20)]))
        return drawn

    assert episodes(1) == episodes(1)
    assert episodes(1) != episodes(2)
    assert len({tuple(noise) for _, _, noise in episodes(1)}) == 4


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"length": 2}, "length"),
        ({"length": 4, "active": True}, "length"),
        ({"length": 30.0}, "length"),
        ({"length": True}, "length"),
        ({"hint_steps": 0}, "hint_steps"),
        ({"hint_steps": 2, "active": True}, "hint_steps"),
        ({"reward": "dense"}, "reward"),
        ({"reward": ["sparse"]}, "reward"),
        ({"active": 1}, "active"),
        ({"corridor_length": 0}, "corridor_length"),
        ({"corridor_length": 2.5}, "corridor_length"),
        ({"corridor_length": "ab"}, "corridor_length"),
        ({"corridor_length": (1, 2, 3)}, "corridor_length"),
        ({"corridor_length": (5, 4)}, "corridor_length"),
        ({"corridor_length": 30}, "corridor_length"),
        ({"corridor_length": (1, 28), "active": True}, "corridor_length"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments: dict[str, Any], name: str) -> None:
    for make in (TMazeEnv, lambda **arguments: TMazeVecEnv(2, **arguments)):
        with pytest.raises(ValueError, match=refusal(name, arguments[name])):
            make(**arguments)


def test_unknown_render_modes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`render_mode`.* 'ansi'"):
        TMazeEnv(render_mode="ansi")
    with pytest.raises(ValueError, match=r"`render_mode`.* 'human'"):
        TMazeVecEnv(2, render_mode="human")


def test_numpy_integers_and_lists_are_welcome() -> None:
    config = TMazeConfig(length=np.int32(9), corridor_length=[np.uint8(2), 3], hint_steps=np.int64(2))
    assert (config.length, config.corridor_range, config.hint_steps) == (9, (2, 3), 2)
    assert {type(config.length), type(config.corridor_range[0]), type(config.hint_steps)} == {int}


def test_stepping_without_a_running_episode_is_refused() -> None:
    env = TMazeEnv(length=3)
    for call in (lambda: env.step(RIGHT), env.oracle_action):
        with pytest.raises(ResetNeeded):
            call()
    env.reset(seed=0)
    play_oracle(env)
    for call in (lambda: env.step(RIGHT), env.oracle_action):
        with pytest.raises(ResetNeeded):
            call()


@pytest.mark.parametrize("action", [4, -1, 1.0, None, np.array([1])])
def test_action_outside_the_space_is_refused(action: Any) -> None:
    env = started()
    with pytest.raises(ValueError, match=re.escape(repr(action))):
        env.step(action)
    assert env.steps == 0


# Ids


@pytest.mark.parametrize("env_id", IDS)
def test_ids_pass_both_checkers(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(gymnasium.make(env_id))
        gymnasium_check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)


def test_ids_name_variant_and_length() -> None:
    assert len(IDS) == 27
    for env_id in IDS:
        spec = gymnasium.spec(env_id)
        config = gymnasium.make(env_id).get_wrapper_attr("config")
        match = re.fullmatch(r"TMaze(Passive|Active|Endless)(?:(\d+)x)?(\d+)?-v0", env_id)
        assert match is not None
        variant, n_corridors, length = match.groups()
        n_corridors = n_corridors or (3 if variant == "Endless" else 1)
        assert config == TMazeConfig(length=int(length or 30), active=variant == "Active", n_corridors=int(n_corridors))
        assert spec.max_episode_steps is None


def test_registering_again_changes_nothing() -> None:
    before = dict(gymnasium.registry)
    register_envs()
    assert gymnasium.registry == before


# The batch


@given(st.integers(1, 4), st.integers(0, 2**32 - 10), arguments())
@settings(max_examples=15, deadline=None)
def test_batch_equals_singles(n_envs: int, seed: int, arguments: dict[str, Any]) -> None:
    assert_batch_equals_singles(n_envs, seed, n_steps=60, arguments=arguments)


def test_batch_equals_singles_across_noise_blocks() -> None:
    arguments = {"length": 9, "corridor_length": (1, 6), "active": True, "reward": "eased"}
    assert_batch_equals_singles(2, seed=5, n_steps=NOISE_BLOCK + 100, arguments=arguments)


def test_batch_restarts_its_streams_only_when_seeded() -> None:
    batch = TMazeVecEnv(2, length=5, seed=3)
    singles = DummyVecEnv([lambda: TMazeEnv(length=5)] * 2)
    singles.seed(3)
    for seed in (None, None, 8):
        if seed is not None:
            batch.seed(seed)
            singles.seed(seed)
        np.testing.assert_array_equal(batch.reset(), singles.reset())
        for actions in ([0, 1], [0, 0], [2, 0], [0, 0], [0, 1], [0, 0]):
            assert_same(batch.step(np.array(actions)), singles.step(np.array(actions)))


def test_unseeded_batches_differ() -> None:
    first, second = (np.array([venv.reset()[:, 3] for _ in range(20)]) for venv in (TMazeVecEnv(4), TMazeVecEnv(4)))
    assert (first != second).any()
    assert (first[:, 0] != first[:, 1]).any()


def test_batch_walks_ten_million_cells() -> None:
    venv = TMazeVecEnv(1, length=10_000_000, seed=0)
    venv.reset()
    venv.set_attr("x", 9_999_996)
    venv.set_attr("steps", 9_999_996)
    flags = [venv.step(np.array([RIGHT]))[0][0, 2] for _ in range(2)]
    assert flags == [0, 1]
    _, rewards, dones, infos = venv.step(venv.oracle_actions())
    assert (rewards[0], dones[0], infos[0]["is_success"]) == (1.0, True, True)


def test_returned_arrays_and_infos_are_never_written_again() -> None:
    venv = TMazeVecEnv(3, length=4, seed=0)
    kept, copies = [], []
    first = venv.reset()
    actions = np.zeros(3, dtype=np.int64)
    for _ in range(9):
        observations, rewards, dones, infos = venv.step(actions)
        terminal = [info["terminal_observation"] for info in infos if "terminal_observation" in info]
        kept.append([observations, rewards, dones, *terminal])
        copies.append([array.copy() for array in kept[-1]])
        infos[0]["mark"] = True
        assert "mark" not in infos[1]
    assert "mark" not in venv.step(actions)[3][0]
    assert actions.tolist() == [0, 0, 0]
    for arrays, before in zip(kept, copies, strict=True):
        for array, copy in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(array, copy)
    assert not np.shares_memory(first, kept[0][0])


def test_state_attributes_are_read_and_set_by_index() -> None:
    batch = TMazeVecEnv(3, length=6, seed=0)
    singles = DummyVecEnv([lambda: TMazeEnv(length=6)] * 3)
    singles.seed(0)
    batch.reset()
    singles.reset()
    for venv in (batch, singles):
        venv.set_attr("goal", -1)
        venv.set_attr("goal", 1, indices=[0, 2])
        venv.set_attr("x", 4, indices=1)
        assert venv.get_attr("goal") == [1, -1, 1]
        assert venv.get_attr("x", indices=[1, 0]) == [4, 0]
        assert venv.env_method("oracle_action", indices=[1, 2]) == [DOWN, RIGHT]
        assert venv.env_is_wrapped(Monitor, indices=0) == [False]
        assert venv.get_attr("render_mode") == [None] * 3
        assert venv.has_attr("config")
        assert not venv.has_attr("action_masks")
    assert_same(batch.step(batch.oracle_actions()), singles.step(np.array(singles.env_method("oracle_action"))))


def test_batch_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"`n_envs`.* 0"):
        TMazeVecEnv(0)
    venv = TMazeVecEnv(2)
    for call in (lambda: venv.step(np.zeros(2, dtype=int)), venv.oracle_actions, venv.get_images):
        with pytest.raises(ResetNeeded):
            call()
    venv.reset()
    with pytest.raises(ValueError, match=r"`actions`.* float64"):
        venv.step(np.zeros(2))
    with pytest.raises(ValueError, match=r"`actions`.*\(2,\).*\(2, 1\)"):
        venv.step(np.zeros((2, 1), dtype=np.int64))
    with pytest.raises(ValueError, match=r"`actions`.* 3.* 4"):
        venv.step(np.array([0, 4]))
    with pytest.raises(ValueError, match=r"`indices`.* 'config'"):
        venv.set_attr("config", TMazeConfig(), indices=0)
    with pytest.raises(AttributeError, match="'jump'"):
        venv.env_method("jump")


class OraclePolicy:
    """The expert behind SB3's ``predict``; the batch gives the answers."""

    def __init__(self, venv: TMazeVecEnv) -> None:
        self.venv = venv

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, None]:
        return self.venv.oracle_actions(), None


@pytest.mark.parametrize("reward", REWARDS)
def test_oracle_is_perfect_under_sb3_wrappers(reward: str) -> None:
    venv = TMazeVecEnv(4, length=10, corridor_length=(1, 6), reward=reward, active=True, seed=0)
    wrapped = VecNormalize(VecMonitor(venv, info_keywords=("is_success",)), norm_reward=True)
    returns, lengths = evaluate_policy(OraclePolicy(venv), wrapped, n_eval_episodes=20, return_episode_rewards=True)
    assert returns == [1.0] * 20
    assert 4 <= np.min(lengths) < np.max(lengths) <= 9


# Pictures


@pytest.fixture
def pygame(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return pytest.importorskip("pygame", reason="pygame is not installed: pip install 'sb3-elmur[render]'")


def test_pictures_of_different_moments_differ(pygame: Any) -> None:
    env = started(length=30, render_mode="rgb_array")
    images = [env.render()]
    terminated = False
    while not terminated:
        terminated = env.step(env.oracle_action())[2]
        images.append(env.render())
    env.y = -env.y
    images.append(env.render())
    assert {image.shape for image in images} == {(340, 720, 3)}
    assert {image.dtype for image in images} == {np.dtype(np.uint8)}
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize("arguments", [{"length": 3}, {"length": 10_000_000}, {"length": 5, "active": True}])
def test_pictures_show_the_goal_of_any_corridor(pygame: Any, arguments: dict[str, Any]) -> None:
    env = started(render_mode="rgb_array", **arguments)
    image = env.render()
    env.goal = -env.goal
    assert (env.render() != image).any()


def test_batch_draws_what_singles_draw(pygame: Any) -> None:
    batch = TMazeVecEnv(3, length=6, active=True, render_mode="rgb_array", seed=0)
    singles = DummyVecEnv([lambda: TMazeEnv(length=6, active=True, render_mode="rgb_array")] * 3)
    singles.seed(0)
    batch.reset()
    singles.reset()
    for _ in range(6):
        np.testing.assert_array_equal(batch.render(), singles.render())
        actions = batch.oracle_actions()
        batch.step(actions)
        singles.step(actions)


def test_render_modes_pass_the_checker(pygame: Any) -> None:
    gymnasium_check_env(gymnasium.make("TMazeActive10-v0", render_mode="rgb_array").unwrapped)


def test_human_mode_shows_every_step_and_closes(pygame: Any) -> None:
    env = started(length=4, render_mode="human")
    assert pygame.display.get_surface().get_size() == (720, 340)
    before = pygame.surfarray.array3d(pygame.display.get_surface())
    env.step(RIGHT)
    assert (pygame.surfarray.array3d(pygame.display.get_surface()) != before).any()
    assert env.render() is None
    env.close()
    env.close()
    assert not pygame.display.get_init()


def test_rendering_without_a_mode_warns_and_before_reset_is_refused() -> None:
    with pytest.warns(UserWarning, match="render_mode"):
        assert started().render() is None
    with pytest.raises(ResetNeeded):
        TMazeEnv(render_mode="rgb_array").render()


def test_missing_pygame_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    runpy.run_path(str(drawing.__file__))
    env = started(render_mode="rgb_array")
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match=r'pip install "sb3-elmur\[render\]"'):
        env.render()

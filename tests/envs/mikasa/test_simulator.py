"""MIKASA-Robo's environments in the real simulator, on the CPU: ``make test-mikasa``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from helpers import SMALL
from sb3_elmur import RecurrentPPO
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.trainer import BC
from sb3_elmur.datasets.episodes import NpzEpisodes
from sb3_elmur.envs import MikasaEnv, MikasaVecEnv
from sb3_elmur.envs.mikasa.culling import outside
from sb3_elmur.envs.mikasa.experts import EXPERTS, RememberExpert, TakeItBackExpert
from sb3_elmur.envs.mikasa.observations import things
from sb3_elmur.envs.mikasa.tasks import TASKS
from sb3_elmur.recording import record

pytestmark = [pytest.mark.mikasa, pytest.mark.usefixtures("suite"), pytest.mark.filterwarnings("ignore")]
all_tasks = pytest.mark.parametrize("task", TASKS)
IMAGE_TASKS = ("RememberColor3", "RotateLenientPos", "SeqOfColors3", "ShellGamePush", "TakeItBack")
STILL = np.zeros(8, dtype=np.float32)
STATE_SIZES = {"RememberColor3": 35, "RememberShapeAndColor5x3": 72, "SeqOfColors7": 89, "InterceptFast": 50, "TakeItBack": 39}


def places(env: MikasaEnv) -> dict[str, np.ndarray]:
    """Where the task shows its things, (3,) each."""
    found: dict[str, np.ndarray] = {}
    for i, (name, thing) in enumerate(things(env.episodes.simulation, env.episodes.task.objects)):
        found[f"{name} {i}"] = thing.pose.p[0].numpy().copy()
    return found


def seen(observation: np.ndarray, n: int) -> np.ndarray:
    """Which of n things a "state_cue" observation shows."""
    return observation[25 : 25 + 4 * n : 4].astype(bool)


def follow(env: MikasaEnv, seed: int, act: Any) -> list[Any]:
    """Observations, rewards and infos of an episode."""
    run = [env.reset(seed=seed)]
    truncated = False
    while not truncated:
        *result, truncated, info = env.step(act())
        run.append((*result, info))
    return run


@all_tasks
@pytest.mark.parametrize("obs_mode", ["state", "state_cue"])
def test_every_task_passes_sb3s_checker(task: str, obs_mode: str) -> None:
    env = MikasaEnv(task, obs_mode=obs_mode)
    check_env(env)
    assert env.observation_space.dtype == np.float32
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (8,))
    if obs_mode == "state" and task in STATE_SIZES:
        assert env.observation_space.shape == (STATE_SIZES[task],)


@all_tasks
def test_limits_are_those_that_the_suite_registers(task: str) -> None:
    registered = import_module("mani_skill.utils.registration").REGISTERED_ENVS
    assert registered[f"{task}-v0"].max_episode_steps == TASKS[task].limit
    suite_ids = {name for name, spec in registered.items() if spec.cls.__module__.startswith("mikasa_robo_suite.rl.")}
    assert suite_ids == {f"{name}-v0" for name in TASKS}


@all_tasks
def test_one_seed_gives_one_episode_and_others_others(task: str) -> None:
    env, other = MikasaEnv(task), MikasaEnv(task)
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 8))
    runs = []
    for player, seed in ((env, 3), (other, 3), (env, 4), (env, 3)):
        observations = [player.reset(seed=seed)[0]]
        observations += [player.step(action)[0] for action in actions]
        runs.append(np.array(observations))
    for repeated in (runs[1], runs[3]):  # contacts of mugs and of many shapes are not solved to the last digit
        np.testing.assert_allclose(runs[0], repeated, rtol=0, atol=1e-4)
    assert np.abs(runs[0] - runs[2]).max() > 1e-3


@pytest.mark.parametrize("task", [task for task in TASKS if task.startswith("Remember")])
def test_remember_shows_the_cue_then_nothing_then_everything_where_it_belongs(task: str) -> None:
    env = MikasaEnv(task)
    observation, _ = env.reset(seed=1)
    simulation = env.episodes.simulation
    answer = [bool(mask[0, 0]) for mask in simulation.masks.values()]
    for step in range(60):
        shown = seen(observation, len(answer)).tolist()
        assert shown == (answer if step < 5 else [False] * len(answer) if step < 10 else [True] * len(answer))
        if step >= 10:
            for place, initial in zip(places(env).values(), simulation.initial_poses.values(), strict=True):
                np.testing.assert_allclose(place, initial[0, :3], atol=0.02)  # shapes come to rest
        observation, *_, info = env.step(STILL)
        assert not info["is_success"]


@pytest.mark.parametrize("task", ["RememberColor3", "RememberShape3", "RememberShapeAndColor3x2"])
@pytest.mark.parametrize("delta_time", [5, 20])
def test_the_table_is_empty_as_long_as_it_is_told_to_be(task: str, delta_time: int) -> None:
    env, own = MikasaEnv(task, delta_time=delta_time), MikasaEnv(task)
    observation, other = env.reset(seed=1)[0], own.reset(seed=1)[0]
    n = len(env.episodes.simulation.masks)
    empty, success, truncated, step = 0, False, False, 0
    while not truncated:
        if step < 10 or delta_time == 5:  # the same episode up to the suite's choice
            np.testing.assert_array_equal(observation, other)
            other = own.step(env.oracle_action())[0]
        empty += not seen(observation, n).any()
        observation, _, _, truncated, info = env.step(env.oracle_action())
        success, step = info["is_success"], step + 1
    assert (empty, step, success) == (delta_time, 55 + delta_time, True)


@pytest.mark.parametrize("task", [task for task in TASKS if "OfColors" in task])
def test_colors_are_shown_at_once_or_one_by_one(task: str) -> None:
    env = MikasaEnv(task)
    observation, _ = env.reset(seed=2)
    simulation = env.episodes.simulation
    answer = simulation.true_color_indices[0].tolist()
    bunch = task.startswith("Bunch")
    cue_end = 5 if bunch else 5 * len(answer)
    for step in range(cue_end + 15):
        colors = np.flatnonzero(seen(observation, 9)).tolist()
        if step < cue_end:
            assert colors == (sorted(answer) if bunch else [answer[step // 5]])
        else:
            assert colors == ([] if step < cue_end + 5 else list(range(9)))
        observation, *_ = env.step(STILL)
    for place, initial in zip(places(env).values(), simulation.initial_poses.values(), strict=True):
        np.testing.assert_allclose(place, initial[0, :3], atol=1e-3)


@pytest.mark.parametrize("task", ["ShellGamePick", "ShellGamePush", "ShellGameTouch"])
def test_mugs_come_down_over_the_ball_and_stay(task: str) -> None:
    env = MikasaEnv(task)
    observation, _ = env.reset(seed=0)
    resting = {}
    for step in range(30):
        assert seen(observation, 4).tolist() == ([False, False, False, True] if step < 5 else [True, True, True, False])
        if step == 5:
            resting = places(env)
        observation, *_, info = env.step(STILL)
        assert not info["is_success"]
    for name, place in places(env).items():
        np.testing.assert_allclose(place[:2], resting[name][:2], atol=5e-3)
        assert abs(place[2] - 0.04) < 0.025


@pytest.mark.parametrize("task", ["RememberColor3", "ShellGameTouch"])
def test_after_the_cue_an_observation_does_not_depend_on_the_answer(task: str) -> None:
    env = MikasaEnv(task)
    env.reset(seed=0)
    for _ in range(12):
        observation, *_ = env.step(STILL)
    simulation = env.episodes.simulation
    answers = simulation.true_color_indices if task == "RememberColor3" else simulation.cup_with_ball_number
    before = simulation.evaluate()["obj_to_goal_pos"].clone()
    answers[:] = (answers + 1) % 3
    assert (simulation.evaluate()["obj_to_goal_pos"] != before).any()
    np.testing.assert_array_equal(env.episodes._observe(None)["observation"][0], observation)


@pytest.mark.parametrize("task", ["RememberColor5", "TakeItBack"])
def test_a_batch_of_one_equals_the_single_environment(task: str) -> None:
    single, batch = DummyVecEnv([lambda: MikasaEnv(task)]), MikasaVecEnv(1, task)
    single.seed(5), batch.seed(5)
    np.testing.assert_array_equal(single.reset(), batch.reset())
    actions = np.random.default_rng(0).uniform(-1.5, 1.5, (TASKS[task].limit + 5, 1, 8))
    for action in actions:
        ours, theirs = batch.step(action), single.step(action)
        for one, other in zip(ours[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        for info, expected in zip(ours[3], theirs[3], strict=True):
            last = [each.pop("terminal_observation", None) for each in (info, expected)]
            np.testing.assert_array_equal(*last)
            assert info == expected


def test_environments_run_in_processes_of_their_own() -> None:
    MikasaEnv("RememberColor3")
    chosen = {"seed": 0, "env_kwargs": {"task": "RememberColor3"}}
    env = make_vec_env(MikasaEnv, 2, **chosen, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "forkserver"})
    alone = make_vec_env(MikasaEnv, 2, **chosen)
    np.testing.assert_array_equal(env.reset(), alone.reset())
    actions = np.full((2, 8), 0.3)
    np.testing.assert_array_equal(env.step(actions)[0], alone.step(actions)[0])
    env.close()


@pytest.mark.parametrize(
    "task", [task for task in EXPERTS if task.endswith(("Color3", "Color9", "Shape9", "5x3", "Touch", "Colors3", "Back"))]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_experts_succeed(task: str, seed: int) -> None:
    env = MikasaEnv(task)
    run = follow(env, seed, env.oracle_action)
    assert len(run) == TASKS[task].limit + 1
    assert run[-1][-1]["is_success"]


def test_what_the_expert_does_follows_from_what_is_seen() -> None:
    env = MikasaEnv("RememberColor5")
    observation, _ = env.reset(seed=0)
    (shown,) = np.flatnonzero(observation[25::4])
    expert, touches = RememberExpert(env.episodes), 0
    for step in range(30):
        cube = observation[26 + 4 * shown :][:3]
        expected = expert.wait() if step < 10 else expert.touch(observation[:3], observation[7:16], cube)
        np.testing.assert_array_equal(env.oracle_action(), expected)
        touches += bool(expected[:7].any())
        observation, *_ = env.step(env.action_space.sample())
    assert touches > 15


def test_where_the_cube_began_is_all_that_must_be_remembered_to_take_it_back() -> None:
    env = MikasaEnv("TakeItBack")
    observation, _ = env.reset(seed=0)
    began, floor = observation[26:28], observation[32:33]  # the cube's x and y, and the goal's z
    expert, chance, taking_back = TakeItBackExpert(env.episodes), np.random.default_rng(0), 0
    env.action_space.seed(0)
    for _ in range(90):
        reached = bool(observation[33])
        goal = np.concatenate((began, floor)) if reached else observation[30:33]
        expected = expert.carry(observation[:3], observation[7:16], observation[26:29], goal)
        action = env.oracle_action()
        np.testing.assert_allclose(action, expected, atol=1e-3)
        taking_back += reached
        observation, *_ = env.step(env.action_space.sample() if chance.random() < 0.1 else action)
    assert 10 < taking_back < 60


def test_recorded_motions_are_labelled_for_every_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    answers = import_module("mikasa_demonstrations")
    env_id = "MikasaRememberColor3-v0"
    record(env_id, "oracle", tmp_path / "recorded", 1, noise=0.5)
    for _ in range(2):  # the second time there is nothing left to do
        answers.label_answers(env_id, tmp_path / "recorded", 1, tmp_path / "labelled")
    with np.load(tmp_path / "recorded" / "train_data_0.npz") as file:
        recorded = dict(file)
    (shown,) = np.flatnonzero(recorded["observation"][0, 25::4])
    for color in range(3):
        with np.load(tmp_path / "labelled" / f"train_data_0_{color}.npz") as file:
            observation, action = file["observation"], file["action"]
        assert np.flatnonzero(observation[0, 25::4]).tolist() == [color]
        np.testing.assert_array_equal(observation[10:], recorded["observation"][10:])
        np.testing.assert_array_equal(action[:10], recorded["action"][:10])
        same = color == shown
        assert np.array_equal(observation, recorded["observation"]) == same
        assert np.array_equal(action, recorded["action"]) == same


@pytest.mark.parametrize("task", ["RememberColor3", "RememberShape3"])
def test_the_cue_is_filmed_again_for_every_answer(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    filming = import_module("mikasa_demonstrations")
    seen = {"obs_mode": "rgb_joints", "camera_size": 64}
    env = MikasaEnv(task, **seen)
    record(f"Mikasa{task}-v0", "oracle", tmp_path / "states", 1, noise=1.0)
    record(f"Mikasa{task}-v0", "oracle", tmp_path / "images", 1, noise=1.0, env_kwargs=seen)
    with (
        np.load(tmp_path / "states" / "train_data_0.npz") as states,
        np.load(tmp_path / "images" / "train_data_0.npz") as images,
    ):
        observation, action, filmed = states["observation"], states["action"], images["rgb"].astype(int)
        np.testing.assert_array_equal(observation[:, :25], images["joints"])
    (shown,) = np.flatnonzero(observation[0, 25::4])
    answers = filming.film_answers(env, 0, observation)
    assert answers["rgb"].shape == (3, 5, 64, 64, 6)
    for answer in range(3):
        difference = np.abs(answers["rgb"][answer] - filmed[:5]).max()
        assert difference < 10 if answer == shown else difference > 100
        assert np.array_equal(answers["action"][answer], action) == (answer == shown)


def test_sparse_rewards_are_successes_and_dense_ones_are_at_most_one() -> None:
    runs = {}
    for reward_mode in ("sparse", "dense"):
        env = MikasaEnv("RememberColor3", reward_mode=reward_mode)
        runs[reward_mode] = follow(env, 0, env.oracle_action)[1:]
    assert [reward for _, reward, _, _ in runs["sparse"]] == [float(info["success_at_end"]) for *_, info in runs["sparse"]]
    dense = np.array([reward for _, reward, _, _ in runs["dense"]])
    assert dense.max() == pytest.approx(1.0)
    assert 0 < dense[0] < 0.5


def test_recorded_experts_are_official_episodes_and_train_a_policy(tmp_path: Path) -> None:
    env = MikasaEnv("RememberColor3")
    record("MikasaRememberColor3-v0", "oracle", tmp_path, 2)
    with np.load(tmp_path / "train_data_0.npz") as file:
        assert {key: file[key].shape for key in file} == {
            "observation": (60, 37), "action": (60, 8), "reward": (60,), "success": (60,), "done": (60,),
        }  # fmt: skip
        assert file["success"][-1] == 1
    episodes = NpzEpisodes(tmp_path, env.observation_space, env.action_space)
    model = RecurrentPPO("ElmurPolicy", env, policy_kwargs=SMALL, seed=0)
    BC(model, episodes, BCConfig(n_epochs=1, batch_size=2)).train()


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_images_are_those_of_both_cameras(task: str) -> None:
    env = MikasaEnv(task, obs_mode="rgb_joints", camera_size=64)
    check_env(env)
    keys = {"rgb", "joints"} | ({"task_cue"} if task.startswith("Rotate") else set())
    observation, _ = env.reset(seed=0)
    assert set(observation) == keys
    assert observation["rgb"].shape == (64, 64, 6)
    assert observation["rgb"].std() > 5
    assert (observation["rgb"][..., :3] != observation["rgb"][..., 3:]).any()
    moved, *_ = env.step(np.ones(8))
    assert (moved["rgb"] != observation["rgb"]).any()
    np.testing.assert_array_equal(observation["joints"][:7], MikasaEnv(task).reset(seed=0)[0][:7])


def test_images_show_the_cue_and_not_afterwards() -> None:
    env = MikasaEnv("RememberColor3", obs_mode="rgb", camera_size=64)
    images = [env.reset(seed=0)[0]["rgb"][..., :3].astype(int)]
    images += [env.step(STILL)[0]["rgb"][..., :3].astype(int) for _ in range(10)]
    changed = [(np.abs(image - images[7]).max(axis=2) > 60).sum() for image in images]  # against the empty table
    assert min(*changed[:5], changed[10]) > 4 * max(1, *changed[5:10])


def test_a_lighter_mesh_of_the_wrists_camera_hardly_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    def film() -> np.ndarray:
        env = MikasaEnv("RememberColor3", obs_mode="rgb")
        actions = np.random.default_rng(0).uniform(-1, 1, (12, 8))
        return np.stack([env.reset(seed=0)[0]["rgb"], *(env.step(action)[0]["rgb"] for action in actions)]).astype(int)

    lighter = film()
    monkeypatch.setattr("sb3_elmur.envs.mikasa.simulation.simplify_wrist_camera", lambda simulation: None)
    difference = np.abs(lighter - film()).max(axis=3)
    assert difference.any()
    assert (difference > 8).mean() < 1e-3


@pytest.mark.parametrize("task", ["RememberColor3", "TakeItBack"])
def test_what_a_camera_cannot_see_is_left_out_and_no_pixel_changes(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def film() -> np.ndarray:
        env = MikasaEnv(task, obs_mode="rgb", camera_size=64)
        actions = np.random.default_rng(0).uniform(-1, 1, (12, 8))
        return np.stack([env.reset(seed=0)[0]["rgb"], *(env.step(action)[0]["rgb"] for action in actions)])

    shares: list[float] = []

    def watched(*arguments: Any) -> np.ndarray:
        unseen = outside(*arguments)
        shares.append(float(unseen.mean()))
        return unseen

    monkeypatch.setattr("sb3_elmur.envs.mikasa.culling.outside", watched)
    culled = film()
    assert len(shares) >= 2 * 13
    assert max(shares) > 0.4
    assert min(shares) < 0.4
    monkeypatch.setattr("sb3_elmur.envs.mikasa.simulation.Culling", lambda simulation: None)
    np.testing.assert_array_equal(culled, film())


def test_a_picture_for_videos_shows_the_table_and_both_cameras() -> None:
    env = MikasaEnv("RememberColor3", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.shape[0] >= 512

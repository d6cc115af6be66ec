"""A batch of MIKASA-Robo's episodes on the CPU beside ManiSkill's own single simulations: ``make test-mikasa``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_elmur.envs.batch import make_batch
from sb3_elmur.envs.mikasa import episodes, simulation
from sb3_elmur.envs.mikasa.episodes import Episodes, MikasaConfig
from sb3_elmur.envs.mikasa.tasks import TASKS
from sb3_elmur.envs.mikasa.vec import MikasaVecEnv

pytestmark = [pytest.mark.mikasa, pytest.mark.usefixtures("suite"), pytest.mark.filterwarnings("ignore")]
B = 2


def manis_own(config: MikasaConfig, monkeypatch: pytest.MonkeyPatch) -> Episodes:
    """A single episode in ManiSkill's own simulation on the CPU, its observation of the state included."""
    make = episodes.make_simulation
    with monkeypatch.context() as patch:
        patch.setattr(simulation, "in_scenes", lambda environment_class: environment_class)
        patch.setattr(episodes, "make_simulation", lambda task, n, reward, own, *more: make(task, n, reward, "state", *more))
        return Episodes(config, 1)


def begin_alike(batch: Episodes, singles: list[Episodes], seeds: list[int]) -> None:
    """Start a batch, and single episodes where it starts, as places come from one random stream for a whole batch."""
    batch.reset(seeds)
    batch._clear()
    ours = batch.simulation
    for i, single in enumerate(singles):
        single.reset([seeds[i]])
        single._clear()
        theirs = single.simulation
        for name, view in ours.scene.actor_views.items():  # of mugs
            theirs.scene.actor_views[name].pose = view.pose[i]
        for name, actor in ours.scene.actors.items():
            if actor._num_objs == len(singles) and actor.px_body_type != "static":
                theirs.scene.actors[name].pose = actor.pose[i]
                if actor.px_body_type == "dynamic":
                    theirs.scene.actors[name].set_linear_velocity(actor.linear_velocity[i])
        theirs.agent.reset(ours.agent.robot.get_qpos()[i].numpy())
        theirs.agent.controller.reset()
        for name, value in vars(ours).items():
            if not name.startswith("_"):
                setattr(theirs, name, own_part(value, i, len(singles)) if has_numbers(value) else getattr(theirs, name))
    for episode in (batch, *singles):
        episode.simulation.get_obs(episode.simulation.get_info())


def has_numbers(value: Any) -> bool:
    """Whether it is a tensor or a dict of them."""
    return isinstance(value, th.Tensor) or (isinstance(value, dict) and all(isinstance(v, th.Tensor) for v in value.values()))


def own_part(value: Any, i: int, n: int) -> Any:
    """What of a batch's tensors belongs to one episode."""
    if isinstance(value, dict):
        return {key: own_part(part, i, n) for key, part in value.items()}
    return value[i : i + 1].clone() if value.shape[:1] == (n,) else value


def wild_actions(n_steps: int, n: int, seed: int) -> np.ndarray:
    """Actions that go down to the table, and knock over what is there."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (n_steps // 8 + 1, n, 8)).repeat(8, axis=0)[:n_steps]
    actions[:40, :, 1] += 0.5
    return actions


def assert_same_episodes(batch: Episodes, singles: list[Episodes], actions: np.ndarray) -> None:
    """Play both, and compare every step to the last digit."""
    for action in actions:
        step, steps = batch.step(action), [single.step(action[i : i + 1]) for i, single in enumerate(singles)]
        for name in ("reward", "success", "succeeded"):
            np.testing.assert_array_equal(getattr(step, name), th.cat([getattr(other, name) for other in steps]))
        theirs = th.cat([other.observation["observation"] for other in steps])
        np.testing.assert_array_equal(step.observation["observation"], theirs)


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_equals_manis_own_simulations_to_the_last_digit(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MikasaConfig(task)
    batch, singles = Episodes(config, B), [manis_own(config, monkeypatch) for _ in range(B)]
    for episode, n_steps in enumerate((TASKS[task].limit, 15)):
        begin_alike(batch, singles, [episode + 7 * i for i in range(B)])
        assert_same_episodes(batch, singles, wild_actions(n_steps, B, episode))


@pytest.mark.parametrize("task", ["RememberColor3", "InterceptGrabSlow", "ShellGamePick"])
@pytest.mark.parametrize("obs_mode", ["state", "state_cue"])
def test_a_seed_is_the_suites_episode_to_the_last_digit(task: str, obs_mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MikasaConfig(task, obs_mode)
    one, single = Episodes(config, 1), manis_own(config, monkeypatch)
    for seed in (3, 4):
        np.testing.assert_array_equal(one.reset([seed])["observation"], single.reset([seed])["observation"])
        assert_same_episodes(one, [single], wild_actions(40, 1, seed))


def test_seeds_repeat_a_batch_whose_targets_and_places_differ() -> None:
    batch, other = MikasaVecEnv(8, "RememberColor5", seed=2), MikasaVecEnv(8, "RememberColor5", seed=2)
    shown = batch.reset()
    np.testing.assert_array_equal(shown, other.reset())
    assert len(set(shown[:, 25::4].argmax(axis=1).tolist())) > 1
    assert len({tuple(place) for place in batch.episodes.simulation.initial_poses[0].tolist()}) == 8


def test_make_batch_plays_states_together_and_images_alone() -> None:
    env = make_batch("MikasaRememberColor3-v0", 2)
    assert isinstance(env, MikasaVecEnv)
    env.reset()
    assert env.step(np.zeros((2, 8)))[0].shape == (2, 37)
    assert not isinstance(make_batch("MikasaRememberColor3-v0", 2, {"obs_mode": "rgb", "camera_size": 16}), MikasaVecEnv)

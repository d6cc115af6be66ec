"""The memory strip below frames: what it draws, and when."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_elmur
from helpers import ACTION_SPACES, VECTOR, RandomEnv, make_model, random_envs
from sb3_elmur.core.memory import EMPTY, Memory
from sb3_elmur.zoo.video import LAYER_HEIGHT, MemoryStrip, ShowingRecurrentPPO, draw_memory, memory_shown

WIDTH, HEIGHT = 64, 32


class RenderedEnv(RandomEnv):
    """Draws white."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, space: spaces.Space = VECTOR) -> None:
        super().__init__(space, ACTION_SPACES[0], mean_length=9.0)

    def render(self) -> Any:
        return np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)


def test_a_strip_shows_content_age_and_empty_slots() -> None:
    slots = th.zeros(1, 1, 3, 4)
    slots[0, 0, 0], slots[0, 0, 1] = 1.0, -1.0
    memory = Memory(slots, th.tensor([[3, 7, EMPTY]]), th.tensor([8]))
    picture = draw_memory(memory, 30, 4)
    assert picture.shape == (LAYER_HEIGHT, 30, 3)
    first, second, empty = (picture[4, column].tolist() for column in (5, 15, 25))
    assert empty == [128, 128, 128]
    assert first != second
    old, new, never = (int(picture[LAYER_HEIGHT - 5, column, 0]) for column in (5, 15, 25))
    assert new == 255
    assert new > old > never == 0


@pytest.mark.parametrize("n_envs", [1, 4])
def test_the_strip_shows_the_models_memory(n_envs: int, tmp_path: Path) -> None:
    make_model(sb3_elmur.RecurrentPPO, random_envs(1)).save(tmp_path / "model.zip")
    env = MemoryStrip(DummyVecEnv([RenderedEnv] * n_envs))
    model = ShowingRecurrentPPO.load(tmp_path / "model.zip", env=env)
    env.seed(0)
    obs, state, starts = env.reset(), None, np.ones(n_envs, dtype=bool)
    frames = [env.render()]
    for _ in range(20):
        actions, state = model.predict(obs, state, starts, deterministic=True)
        expected = model.policy.backbone.layout.unpack(
            tuple(map(th.as_tensor, state)), model.policy.backbone.core.initial_slots
        )[0]
        assert env._memory is not None
        assert th.equal(env._memory.slots, expected.slots)
        obs, _, starts, _ = env.step(actions)
        assert (env._memory.position[starts] == 0).all()
        frames.append(env.render())
    side = int(np.ceil(np.sqrt(n_envs)))
    assert {frame.shape for frame in frames if frame is not None} == {(side * (HEIGHT + 2 * LAYER_HEIGHT), side * WIDTH, 3)}
    assert len({frame.tobytes() for frame in frames if frame is not None}) > 1


def test_without_slots_there_is_no_strip(tmp_path: Path) -> None:
    make_model(sb3_elmur.RecurrentPPO, random_envs(1), policy_kwargs={"memory_size": 0}).save(tmp_path / "model.zip")
    env = MemoryStrip(DummyVecEnv([RenderedEnv]))
    model = ShowingRecurrentPPO.load(tmp_path / "model.zip", env=env)
    model.predict(env.reset(), None, np.ones(1, dtype=bool))
    frame = env.render()
    assert frame is not None
    assert frame.shape == (HEIGHT, WIDTH, 3)


def test_the_zoo_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("rl_zoo3.utils", reason="needs rl_zoo3")
    monkeypatch.setitem(utils.ALGOS, "ppo_elmur", sb3_elmur.RecurrentPPO)
    create = utils.create_test_env
    with memory_shown("ppo_elmur"):
        assert utils.create_test_env is not create
        assert utils.ALGOS["ppo_elmur"] is ShowingRecurrentPPO
    assert utils.create_test_env is create
    assert utils.ALGOS["ppo_elmur"] is sb3_elmur.RecurrentPPO

"""Properties of batches made by id."""

import pickle
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_elmur.envs import POPGymVecEnv, TMazeConfig, TMazeVecEnv
from sb3_elmur.envs.batch import make_batch


@pytest.fixture
def limited() -> Iterator[str]:
    """Id of a T-Maze with a time limit, which the native batch does not know."""
    gymnasium.register("LimitedTMaze-v0", "sb3_elmur.envs.tmaze:TMazeEnv", max_episode_steps=4)
    yield "LimitedTMaze-v0"
    del gymnasium.registry["LimitedTMaze-v0"]


def test_tmaze_is_a_native_batch_with_the_arguments_of_its_id() -> None:
    batch = make_batch("TMazeEndless3x10-v0", 5, {"length": 7})
    assert isinstance(batch, TMazeVecEnv)
    assert batch.num_envs == 5
    assert batch.config == TMazeConfig(length=7, n_corridors=3)


def test_popgym_is_a_native_batch_where_its_task_has_one() -> None:
    batch = make_batch("POPGymCountRecallHard-v0", 3)
    assert isinstance(batch, POPGymVecEnv)
    assert batch.get_attr("task") == ["CountRecallHard"] * 3


@pytest.mark.parametrize(
    ("env_id", "env_kwargs"),
    [("POPGymMineSweeperEasy-v0", None), ("POPGymRepeatFirstEasy-v0", {"render_mode": "human"})],
)
def test_popgym_is_copied_where_the_batch_lacks_something(env_id: str, env_kwargs: dict[str, str] | None) -> None:
    pytest.importorskip("popgym", reason="popgym is not installed: pip install 'sb3-elmur[popgym]'")
    batch = make_batch(env_id, 2, env_kwargs)
    assert isinstance(batch, DummyVecEnv)
    assert batch.num_envs == 2


def test_other_environments_are_copied() -> None:
    batch = make_batch("CartPole-v1", 2, {"sutton_barto_reward": True})
    assert isinstance(batch, DummyVecEnv)
    assert batch.get_attr("_sutton_barto_reward") == [True, True]


def test_time_limit_is_kept(limited: str) -> None:
    batch = make_batch(limited, 2)
    batch.reset()
    dones = [batch.step([0, 0])[2].tolist() for _ in range(4)]
    assert dones == [[False, False]] * 3 + [[True, True]]


@pytest.mark.parametrize("env_id", ["TMazeEndless3x10-v0", "TMazeActive10-v0", "TMazeCues4x30-v0"])
def test_a_pickled_maze_batch_goes_on_as_the_batch_itself(env_id: str) -> None:
    batch = make_batch(env_id, 3)
    batch.seed(0)
    batch.reset()
    batch.step(np.zeros(3, dtype=np.int64))
    copy = pickle.loads(pickle.dumps(batch))
    for _ in range(40):
        actions = np.array(batch.env_method("oracle_action"))
        for one, other in zip(batch.step(actions)[:3], copy.step(actions)[:3], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("env_id", "kind"), [("TMazePassive10-v0", TMazeVecEnv), ("CartPole-v1", DummyVecEnv)])
def test_an_id_may_name_the_module_that_registers_it(env_id: str, kind: type) -> None:
    assert isinstance(make_batch(f"sb3_elmur.envs:{env_id}", 2), kind)


def test_unknown_id_is_refused() -> None:
    with pytest.raises(gymnasium.error.UnregisteredEnv):
        make_batch("Nowhere-v0", 2)

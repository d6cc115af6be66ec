"""Recordings of environments with action masks."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from mask_helpers import MASKED_SPACES, MaskedEnv, to_flags

from helpers import make_model
from sb3_elmur import RecurrentPPO
from sb3_elmur.datasets import DataError, Episode, open_episodes
from sb3_elmur.recording import record

every_space = pytest.mark.parametrize("action_space", MASKED_SPACES, ids=str)


def recorded(action_space: spaces.Space, expert: object, folder: Path, **arguments: object) -> list[Episode]:
    record(lambda: MaskedEnv(action_space), expert, folder, 3, **arguments)  # type: ignore[arg-type]
    env = MaskedEnv(action_space)
    return list(open_episodes(folder, env.observation_space, action_space))


@pytest.mark.parametrize("format", ["npz", "minari"])
@every_space
def test_masks_are_recorded_and_read(action_space: spaces.Space, format: str, tmp_path: Path) -> None:
    if format == "minari":
        pytest.importorskip("minari")
    for seed, episode in enumerate(recorded(action_space, "random", tmp_path / "masked-v0", format=format)):
        env = MaskedEnv(action_space)
        env.reset(seed=seed)
        assert episode.action_masks is not None
        for action, mask in zip(episode.actions, episode.action_masks, strict=True):
            np.testing.assert_array_equal(mask, env.action_masks())
            assert mask[to_flags(action_space, action)].all()
            env.step(action)


@every_space
def test_a_model_acts_with_masks(action_space: spaces.Space, tmp_path: Path) -> None:
    model = make_model(RecurrentPPO, MaskedEnv(action_space))
    assert len(recorded(action_space, model, tmp_path / "masked", noise=0.3)) == 3


def test_an_expert_that_takes_an_invalid_action_is_not_recorded(tmp_path: Path) -> None:
    def first_invalid(observation: np.ndarray) -> int:
        return int(np.argmin(env.action_masks()))

    env = MaskedEnv(spaces.Discrete(6))
    with pytest.raises(DataError, match=r"`action_mask`"):
        record(lambda: env, first_invalid, tmp_path / "masked", 1, noise=1.0)


def test_a_file_whose_mask_forbids_its_action_is_refused(tmp_path: Path) -> None:
    arrays = {"observation": np.zeros((2, 3), np.float32), "action": np.array([1, 0])}
    np.savez(tmp_path / "0.npz", **arrays, action_mask=np.array([[True, True], [False, True]]))
    episodes = open_episodes(tmp_path, spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
    with pytest.raises(DataError, match=r"`action_mask`.* 0 at index 1"):
        episodes[0]


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    arrays = {"observation": np.zeros((2, 3), np.float32), "action": np.array([1, 0])}
    np.savez(tmp_path / "0.npz", **arrays, action_mask=np.ones((2, 3)))
    with pytest.raises(DataError, match=r"`action_mask`.*\(T, 2\).*\(2, 3\)"):
        open_episodes(tmp_path, spaces.Box(-1, 1, (3,)), spaces.Discrete(2))


def test_an_observation_may_be_called_action_mask(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", action_mask=np.zeros((2, 3), np.float32), action=np.array([1, 0]))
    observed = spaces.Dict({"action_mask": spaces.Box(-1, 1, (3,))})
    (episode,) = open_episodes(tmp_path, observed, spaces.Discrete(2))
    assert isinstance(episode.observations, dict)
    assert list(episode.observations) == ["action_mask"]
    assert episode.action_masks is None

"""Data sets of episodes: what loads belongs to the spaces, and everything else is named and refused."""

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch.utils.data import DataLoader

from helpers import TURN, UNBOUNDED, assert_episode, episode_arrays, load_episode
from sb3_elmur.datasets.episodes import DataError, MinariEpisodes, NpzEpisodes, open_episodes

IMAGE = spaces.Box(0, 255, (8, 8, 6), dtype=np.uint8)
ROBOT = spaces.Dict({"rgb": IMAGE, "joints": spaces.Box(-np.inf, np.inf, (25,))})
ARM = spaces.Box(-1, 1, (8,))


def save(folder: Path, n_episodes: int = 1) -> list[dict[str, Any]]:
    """Write episodes of 1, 2, ... steps."""
    episodes = [episode_arrays(steps=index + 1, seed=index) for index in range(n_episodes)]
    for index, episode in enumerate(episodes):
        np.savez(folder / f"train_data_{index}.npz", **episode)
    return episodes


# What is read


def test_files_of_mikasa_robo(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = {
        "rgb": rng.integers(256, size=(6, 8, 8, 6), dtype=np.uint8),
        "joints": rng.normal(size=(6, 25)).astype(np.float32),
        "action": 2 * rng.normal(size=(6, 8)).astype(np.float32),
        "reward": rng.random(6, dtype=np.float32),
        "success": np.zeros(6, dtype=np.int64),
        "done": np.arange(6) // 5,
        "task_cue": np.array([{"not": "read"}]),
    }
    episode = load_episode(tmp_path, ROBOT, ARM, **stored)
    assert len(episode) == 6
    assert list(episode.observations) == list(ROBOT.spaces)
    for key in ROBOT.spaces:
        assert episode.observations[key].dtype == ROBOT[key].dtype
        np.testing.assert_array_equal(episode.observations[key], stored[key])
    assert (np.abs(stored["action"]) > 1).any()
    np.testing.assert_array_equal(episode.actions, stored["action"].clip(-1, 1))
    np.testing.assert_array_equal(episode.rewards, stored["reward"])
    assert episode.nbytes == 6 * (8 * 8 * 6 + 4 * (25 + 8 + 1))


def test_files_come_in_natural_order_and_others_are_ignored(tmp_path: Path) -> None:
    for steps, name in enumerate(("train_data_0", "train_data_2", "train_data_10", "train_data_010", "train_data_11"), 1):
        np.savez(tmp_path / name, **episode_arrays(steps))
    (tmp_path / "below").mkdir()
    np.savez(tmp_path / "below" / "train_data_1", **episode_arrays())
    for name in (".train_data_3.77.tmp.npz", "recording.json"):
        (tmp_path / name).write_text("half")
    data = NpzEpisodes(tmp_path, UNBOUNDED, TURN)
    names = [path.stem for path in data.paths]
    assert names == ["train_data_0", "train_data_2", "train_data_010", "train_data_10", "train_data_11"]
    assert data.lengths.dtype == np.int64
    assert data.lengths.tolist() == [1, 2, 4, 3, 5] == [len(data[index]) for index in range(len(data))]


def test_indices_are_those_of_a_sequence(tmp_path: Path) -> None:
    save(tmp_path, 3)
    data = NpzEpisodes(tmp_path, UNBOUNDED, TURN)
    assert data[-1] is data[np.int64(2)]
    for index in (3, -4):
        with pytest.raises(IndexError):
            data[index]


def test_rewards_are_zero_where_there_are_none(tmp_path: Path) -> None:
    stored = episode_arrays()
    del stored["reward"]
    rewards = load_episode(tmp_path, **stored).rewards
    assert rewards.dtype == np.float32
    assert rewards.tolist() == [0] * 5


def test_layout_in_the_file_does_not_matter(tmp_path: Path) -> None:
    stored = episode_arrays()
    swapped = {key: array.astype(array.dtype.newbyteorder()) for key, array in stored.items()}
    assert_episode(load_episode(tmp_path, **swapped), stored)
    assert_episode(load_episode(tmp_path, **stored | {"observation": np.asfortranarray(stored["observation"])}), stored)
    np.savez_compressed(tmp_path / "train_data_0.npz", **stored)
    assert_episode(NpzEpisodes(tmp_path, UNBOUNDED, TURN)[0], stored)


@pytest.mark.parametrize(
    ("space", "stored"),
    [
        (UNBOUNDED, np.float16),
        (UNBOUNDED, np.float64),
        (UNBOUNDED, np.int64),
        (UNBOUNDED, np.bool_),
        (spaces.Box(-9, 9, (3,), dtype=np.float64), np.float32),
        (spaces.Box(-9, 9, (3,), dtype=np.int8), np.uint64),
        (spaces.Box(0, 255, (3,), dtype=np.uint8), np.int64),
        (spaces.MultiDiscrete([2, 3, 2], start=[0, -1, 0]), np.int8),
        (spaces.MultiBinary(3), np.bool_),
    ],
    ids=str,
)
def test_numbers_are_converted_to_the_dtype_of_the_space(space: spaces.Space, stored: type, tmp_path: Path) -> None:
    values = np.array([[0, 1, 1], [1, 0, 0]], dtype=stored)
    episode = load_episode(tmp_path, space, space, observation=values, action=values, reward=np.array([1, 2]))
    for array in (episode.observations, episode.actions):
        assert array.dtype == space.dtype
        np.testing.assert_array_equal(array, values)
    assert episode.rewards.dtype == np.float32


def test_infinite_bounds_clip_nothing_and_integer_actions_are_clipped_too(tmp_path: Path) -> None:
    stored = episode_arrays()["observation"]
    np.testing.assert_array_equal(
        load_episode(tmp_path, UNBOUNDED, UNBOUNDED, observation=stored, action=stored).actions, stored
    )
    box = spaces.Box(-2, 3, (1,), dtype=np.int16)
    actions = np.array([[-300], [3], [4]])
    clipped = load_episode(tmp_path, observation=stored[:3], action=actions, action_space=box).actions
    assert clipped.tolist() == [[-2], [3], [3]]


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation": np.zeros((5, 4))}, r"`observation`.*Found \(5, 4\)\."),
        ({"observation": np.float32(1)}, r"`observation`.*Found \(\)\."),
        ({"action": np.zeros((5, 1), dtype=int)}, r"`action`.*Found \(5, 1\)\."),
        ({"action": np.zeros(5)}, r"`action`.*Found float64\."),
        (
            {"observation": np.zeros((5, 3), dtype=complex)},
            r"`observation`.*Found complex128\.",
        ),
        ({"observation": np.full((5, 3), "a")}, r"<U1\."),
        ({"action": np.zeros(4, dtype=int)}, r"5 in `observation`, 4 in `action`, 5 in `reward`\."),
        ({"reward": np.zeros(6)}, r"6 in `reward`\."),
        ({"success": np.zeros(4)}, r"4 in `success`\."),
        ({"done": np.zeros((5, 1))}, r"`done`.*Found \(5, 1\)\."),
        (
            {key: array[:0] for key, array in episode_arrays().items()},
            r"`observation`.*Found shape \(0, 3\)\.",
        ),
        ({"action": np.array([None] * 5)}, "`action`.*Python objects"),
    ],
    ids=str,
)
def test_headers_are_checked_when_a_folder_is_opened(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(tmp_path, 3)
    np.savez(tmp_path / "train_data_1.npz", **episode_arrays() | changes)
    with pytest.raises(DataError, match=rf"1 of 3 files .*\n.*train_data_1.npz: .*{message}"):
        NpzEpisodes(tmp_path, UNBOUNDED, TURN)


def test_an_image_must_have_the_order_of_the_space(tmp_path: Path) -> None:
    stored = {"rgb": np.zeros((2, 6, 8, 8), np.uint8), "joints": np.zeros((2, 25)), "action": np.zeros((2, 8))}
    with pytest.raises(DataError, match=r"`rgb`.*\(T, 8, 8, 6\).*\(2, 6, 8, 8\)"):
        load_episode(tmp_path, ROBOT, ARM, **stored)


def test_missing_arrays_are_named_with_those_that_are_there(tmp_path: Path) -> None:
    for key in ("observation", "action"):
        stored = episode_arrays()
        del stored[key]
        with pytest.raises(DataError, match=rf"`{key}`.*reward"):
            load_episode(tmp_path, **stored)
    with pytest.raises(DataError, match=r"`joints`.* action, observation, reward"):
        load_episode(tmp_path, ROBOT, **episode_arrays())


def test_the_first_of_many_bad_files_are_listed(tmp_path: Path) -> None:
    save(tmp_path, 20)
    for index in range(3, 17):
        (tmp_path / f"train_data_{index}.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"^14 of 20 files") as caught:
        NpzEpisodes(tmp_path, UNBOUNDED, TURN)
    assert re.findall(r"train_data_(\d+)\.npz", str(caught.value)) == list("34567")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("observation", np.nan, r"`observation`.*Found nan at index \(2, 1\)\."),
        ("observation", 1e39, r"`observation`.*Found 1e\+39 at index \(2, 1\)\."),
        ("observation", 2**24 + 1, r"`observation`.*Found 16777217 at index \(2, 1\)\."),
        ("action", -1, r"`action`.*Found -1 at index \(2,\)\."),
        ("action", np.uint64(2**64 - 1), r"`action`.*Found 18446744073709551615 at index \(2,\)\."),
        ("reward", -np.inf, r"`reward`.*Found -inf at index \(2,\)\."),
    ],
)
def test_contents_are_checked_when_an_episode_is_read(key: str, value: Any, message: str, tmp_path: Path) -> None:
    good = save(tmp_path, 2)
    bad = episode_arrays()
    bad[key] = bad[key].astype(np.asarray(value).dtype)
    bad[key][(2, 1)[: bad[key].ndim]] = value
    np.savez(tmp_path / "train_data_1.npz", **bad)
    data = NpzEpisodes(tmp_path, UNBOUNDED, TURN)
    with pytest.raises(DataError, match=rf"train_data_1.npz: {message}"):
        data[1]
    assert_episode(data[0], good[0])


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Discrete(3, start=1), 0),
        (spaces.MultiDiscrete([2, 3]), [1, 3]),
        (spaces.MultiBinary(2), [0, 2]),
        (spaces.Box(0, 9, (1,), dtype=np.uint8), [256]),
        (ARM, [np.nan] * 8),
    ],
    ids=str,
)
def test_actions_outside_their_space_are_refused(space: spaces.Space, value: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`action`"):
        load_episode(tmp_path, action_space=space, observation=np.zeros((1, 3)), action=np.array([value]))


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    data = NpzEpisodes(tmp_path, UNBOUNDED, TURN)
    np.savez(tmp_path / "train_data_0.npz", **episode_arrays(steps=2))
    with pytest.raises(DataError, match=r"train_data_0\.npz.* 2 steps .* 1\."):
        data[0]
    (tmp_path / "train_data_0.npz").unlink()
    with pytest.raises(DataError, match=r"train_data_0\.npz.*FileNotFoundError"):
        data[0]


def test_spaces_that_no_array_can_hold_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(ValueError, match=r"`observation_space`.* Received Tuple\."):
        NpzEpisodes(tmp_path, spaces.Tuple([UNBOUNDED]), TURN)
    with pytest.raises(ValueError, match=r"`observation_space`.* Received Dict\."):
        NpzEpisodes(tmp_path, spaces.Dict({"nested": spaces.Dict({"x": UNBOUNDED})}), TURN)
    with pytest.raises(ValueError, match=r"`action_space`.* Received Dict\."):
        NpzEpisodes(tmp_path, UNBOUNDED, spaces.Dict({"x": TURN}))
    with pytest.raises(ValueError, match=r"`observation_space`.* Received action\."):
        NpzEpisodes(tmp_path, spaces.Dict({"action": TURN, "x": UNBOUNDED}), TURN)


SHAPES = st.sampled_from([(2,), (2, 3)]) | npst.array_shapes(min_dims=0, min_side=0, max_side=4)
DTYPES = st.sampled_from(["f2", "f4", "f8", "i1", "u1", "i8", "u8", "?", ">f4", ">i8"]) | npst.scalar_dtypes()
ARRAYS = DTYPES.flatmap(lambda dtype: npst.arrays(dtype, SHAPES)) | npst.arrays(object, SHAPES, elements=st.none())


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("observation", "action", "reward", "success", "done"), ARRAYS)))
@settings(max_examples=60, deadline=None)
def test_what_loads_belongs_to_the_spaces(tmp_path_factory: pytest.TempPathFactory, stored: dict[str, np.ndarray]) -> None:
    folder = tmp_path_factory.getbasetemp()
    for observation_space, action_space in (
        (UNBOUNDED, TURN),
        (spaces.MultiBinary(3), spaces.Box(-1, 1, (3,))),
        (TURN, UNBOUNDED),
    ):
        try:
            episode = load_episode(folder, observation_space, action_space, **stored)
        except DataError:
            continue
        assert all(observation_space.contains(observation) for observation in episode.observations)
        assert all(action_space.contains(action) for action in episode.actions)
        assert len(episode) == len(episode.observations) == len(episode.rewards) >= 1
        assert np.isfinite(episode.rewards).all()


# Memory and worker processes


def test_episodes_are_kept_while_they_fit(tmp_path: Path) -> None:
    stored = save(tmp_path, 4)
    step = 3 * 4 + 8 + 4
    data = NpzEpisodes(tmp_path, UNBOUNDED, TURN, cache_bytes=6 * step)
    for _ in range(2):
        for index in (1, 3, 2, 0):  # of 2, 4, 3 and 1 steps
            assert_episode(data[index], stored[index])
    for path in data.paths:
        path.unlink()
    assert_episode(data[1], stored[1])
    assert_episode(data[3], stored[3])
    for index in (0, 2):
        with pytest.raises(DataError, match="FileNotFoundError"):
            data[index]


def test_copies_of_a_data_set_carry_no_episodes(tmp_path: Path) -> None:
    stored = save(tmp_path, 2)
    data = NpzEpisodes(tmp_path, UNBOUNDED, TURN)
    before = len(pickle.dumps(data))
    assert_episode(data[0], stored[0])
    assert len(pickle.dumps(data)) == before
    assert_episode(pickle.loads(pickle.dumps(data))[1], stored[1])


def test_workers_of_a_data_loader_read_the_same(tmp_path: Path) -> None:
    stored = save(tmp_path, 6)
    loader = DataLoader(NpzEpisodes(tmp_path, UNBOUNDED, TURN), batch_size=2, num_workers=2, collate_fn=list)
    episodes = [episode for batch in loader for episode in batch]
    assert len(episodes) == 6
    for episode, original in zip(episodes, stored, strict=True):
        assert_episode(episode, original)


# Where data sets are


def test_any_folder_without_a_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "above" / "RememberColor3-v0").mkdir(parents=True)
    save(tmp_path / "above" / "RememberColor3-v0")
    for name, hint in (
        ("empty", r"none\."),
        ("file", "is no folder"),
        ("absent", "does not exist"),
        ("above", r"some in .*RememberColor3-v0\."),
    ):
        with pytest.raises(DataError, match=rf"{name}.*{hint}"):
            open_episodes(tmp_path / name, UNBOUNDED, TURN)
    assert len(open_episodes(str(tmp_path / "above" / "RememberColor3-v0"), UNBOUNDED, TURN)) == 1


def test_without_minari_its_installation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(DependencyNotInstalled, match=r'pip install "sb3-elmur\[minari\]"'):
        open_episodes("minari:absent-v0", UNBOUNDED, TURN)


@pytest.fixture
def minari_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    pytest.importorskip("minari", reason="Minari is not installed")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def test_an_absent_minari_data_set_is_named_with_its_remedy(minari_root: Path) -> None:
    with pytest.raises(DataError, match=r"`minari download absent-v0`"):
        open_episodes("minari:absent-v0", UNBOUNDED, TURN)


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_minari_data_sets_are_checked(minari_root: Path) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    def write(name: str, steps: int = 2, **changes: Any) -> str:
        buffer = {
            "observations": np.zeros((steps + 1, 3), dtype=np.float32),
            "actions": np.zeros(steps, dtype=np.int64),
            "rewards": np.ones(steps),
            "terminations": np.zeros(steps, dtype=bool),
            "truncations": np.zeros(steps, dtype=bool),
        }
        minari.create_dataset_from_buffers(
            name, [EpisodeBuffer(**buffer | changes)], observation_space=UNBOUNDED, action_space=TURN
        )
        return f"minari:{name}"

    name = write("good-v0", observations=np.arange(9, dtype=np.float32).reshape(3, 3))
    episode = open_episodes(name, UNBOUNDED, TURN)[0]
    assert_episode(
        episode,
        {"observation": np.arange(6.0, dtype="f").reshape(2, 3), "action": np.zeros(2, int), "reward": np.ones(2, "f")},
    )
    with pytest.raises(DataError, match=r"good-v0: `observation`.*\(T, 8, 8, 6\).*\(2, 3\)"):
        open_episodes(name, IMAGE, TURN)
    with pytest.raises(DataError, match=r"good-v0: `joints`.* action, observation"):
        open_episodes(minari_root / "good-v0", ROBOT, TURN)
    for changes, message in (
        ({"observations": np.full((3, 3), np.nan)}, r"`observation`.*Found nan"),
        ({"actions": np.array([0, 4])}, r"`action`.*Found 4"),
    ):
        name = write(f"bad{len(list(minari_root.iterdir()))}-v0", **changes)
        with pytest.raises(DataError, match=rf"episode 0 of bad.-v0: {message}"):
            open_episodes(name, UNBOUNDED, TURN)[0]
    for changes, key in (({"observations": np.zeros((2, 3))}, "observation"), ({"actions": np.zeros(1, int)}, "action")):
        name = write(f"bad{len(list(minari_root.iterdir()))}-v0", **changes)
        with pytest.raises(DataError, match=rf"(?s)bad.-v0: 1 of 1 episodes.*episode 0: `{key}`.* Found shape"):
            open_episodes(name, UNBOUNDED, TURN)
    (minari_root / "good-v0" / "data" / "main_data.hdf5").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"good-v0.*OSError"):
        MinariEpisodes("good-v0", UNBOUNDED, TURN)

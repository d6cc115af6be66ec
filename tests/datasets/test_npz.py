"""Hostile and damaged .npz files."""

import io
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import TURN, UNBOUNDED, assert_episode, episode_arrays, load_episode
from sb3_elmur.datasets import npz as npz_files
from sb3_elmur.datasets.episodes import DataError, NpzEpisodes


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("key", ["observation", "action", "reward", "success", "other"])
def test_nothing_is_unpickled(key: str, tmp_path: Path) -> None:
    stored = episode_arrays() | {key: np.array([Bomb(tmp_path / "boom")] * 5)}
    if key == "other":
        assert_episode(load_episode(tmp_path, **stored), stored)
    else:
        with pytest.raises(DataError, match=f"`{key}`.*Python objects"):
            load_episode(tmp_path, **stored)
    assert not (tmp_path / "boom").exists()
    (tmp_path / "train_data_0.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(DataError):
        NpzEpisodes(tmp_path, UNBOUNDED, TURN)
    assert not (tmp_path / "boom").exists()


def npy(shape: tuple[int, ...], dtype: str = "<i8") -> bytes:
    """The header of an array."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": dtype, "fortran_order": False, "shape": shape})
    return member.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize(
    ("content", "claimed", "message"),
    [
        (npy((2**40,)), None, r"claims the shape \(1099511627776,\)"),
        (npy((2**40,)), 2**43, f"{2**43} bytes"),
        (npy((-(2**40), -(2**40))), None, "claims the shape"),
        (npy((5,)) + b"\0" * 41, None, "41 bytes"),
        (npy((5,)) + b"\0" * 39, None, "39 bytes"),
        (npy((True,)) + b"\0" * 8, None, r"claims the shape \(True,\)"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 2**24, None, "array header"),
        (b"\x93NUMPY\x01\x00\x00\x10" + b"(" * 4096, None, "cannot be read"),
    ],
)
def test_claims_are_checked_before_memory_is_taken(
    content: bytes, claimed: int | None, message: str, compression: int, tmp_path: Path
) -> None:
    stored = episode_arrays()
    del stored["action"]
    np.savez(tmp_path / "train_data_0.npz", **stored)
    with zipfile.ZipFile(tmp_path / "train_data_0.npz", "a", compression) as archive:
        archive.writestr("action.npy", content)
        if claimed is not None:
            archive.filelist[-1].file_size = claimed
    del content
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"`action`.*compression method|`action` .*{message}"):
            NpzEpisodes(tmp_path, UNBOUNDED, TURN)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_bomb_that_hides_its_size_stays_packed(tmp_path: Path) -> None:
    steps = 2**13
    np.savez(tmp_path / "train_data_0.npz", observation=np.zeros((steps, 3)))
    with zipfile.ZipFile(tmp_path / "train_data_0.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("action.npy", npy((steps,)) + b"\0" * 2**26)
        archive.filelist[-1].file_size = len(npy((steps,))) + 8 * steps
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"`action`.*BadZipFile"):
            NpzEpisodes(tmp_path, UNBOUNDED, TURN)[0]
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_an_array_cannot_hide_in_a_comment(tmp_path: Path) -> None:
    np.savez(tmp_path / "train_data_0.npz", **episode_arrays())
    content = bytearray((tmp_path / "train_data_0.npz").read_bytes())
    content[content.rindex(b"action.npy") - 13] = 255  # the comment of `action` now reaches beyond `reward`
    (tmp_path / "train_data_0.npz").write_bytes(content)
    with pytest.raises(DataError, match=r" 3 arrays.* 2\."):
        NpzEpisodes(tmp_path, UNBOUNDED, TURN)


def test_an_array_stored_twice_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "train_data_0.npz", **episode_arrays())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "train_data_0.npz", "a") as archive:
        archive.writestr("action.npy", npy((5,)) + b"\0" * 40)
    with pytest.raises(DataError, match=r"`action`.*twice"):
        NpzEpisodes(tmp_path, UNBOUNDED, TURN)


def packed(compressed: bool) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **episode_arrays())
    return file.getvalue()


WHOLE = [packed(compressed=False), packed(compressed=True)]


def read_or_refuse(folder: Path, content: bytes) -> bool:
    """Whether the file was refused; if not, it must be the original episode."""
    (folder / "train_data_0.npz").write_bytes(content)
    try:
        episode = NpzEpisodes(folder, UNBOUNDED, TURN)[0]
    except DataError:
        return True
    assert_episode(episode, episode_arrays())
    return False


@pytest.mark.parametrize("whole", WHOLE, ids=["stored", "deflated"])
def test_truncated_files_are_refused(whole: bytes, tmp_path: Path) -> None:
    assert not read_or_refuse(tmp_path, whole)
    assert all(read_or_refuse(tmp_path, whole[:length]) for length in range(0, len(whole), 7))


@given(st.sampled_from(WHOLE), st.lists(st.integers(0, 2**16), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_flipped_bits_do_no_harm(tmp_path_factory: pytest.TempPathFactory, whole: bytes, flips: list[int]) -> None:
    content = bytearray(whole)
    for flip in flips:
        content[flip // 8 % len(content)] ^= 1 << flip % 8
    read_or_refuse(tmp_path_factory.getbasetemp(), bytes(content))


@given(st.sampled_from(WHOLE), st.integers(0, 2**16), st.integers(0, 64), st.binary(max_size=64))
@settings(max_examples=100, deadline=None)
def test_replaced_bytes_do_no_harm(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, begin: int, length: int, new: bytes
) -> None:
    begin %= len(whole)
    read_or_refuse(tmp_path_factory.getbasetemp(), whole[:begin] + new + whole[begin + length :])


def test_an_array_that_is_packed_too_tightly_stays_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_files, "LARGE_BYTES", 2**20)
    steps = 2**17
    with zipfile.ZipFile(tmp_path / "train_data_0.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for key in ("observation", "action"):
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                member.write(npy((steps, 3) if key == "observation" else (steps,)))
                for _ in range(24 if key == "observation" else 8):
                    member.write(bytes(steps))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="`observation`"):
            NpzEpisodes(tmp_path, UNBOUNDED, TURN)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_named_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train_data_0.npz")
    with pytest.raises(DataError, match=r"train_data_0\.npz"):
        NpzEpisodes(tmp_path, UNBOUNDED, TURN)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    assert read_or_refuse(tmp_path_factory.getbasetemp(), content)

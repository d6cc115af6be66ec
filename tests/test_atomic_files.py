"""Atomic files: complete or absent."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sb3_elmur.atomic_files import atomic_path


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), replace(*names)))
    with atomic_path(tmp_path / "model.zip") as temporary:
        temporary.write_text("new")
    assert order[:2] == ["fsync", "replace"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_that_is_not_to_be_replaced_stays(hard_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # as exFAT says

    if not hard_links:
        monkeypatch.setattr(os, "link", link)
    path = tmp_path / "settings.json"
    with atomic_path(path, replace=False) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileExistsError), atomic_path(path, replace=False) as temporary:
        temporary.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_without_hard_links_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def write_half(path: Path, content: bytes) -> None:
        path.write_text(content.decode()[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="No space"), atomic_path(tmp_path / "settings.json", replace=False) as temporary:
        temporary.write_text("first")
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    """Even if their processes have the same number, as in containers."""
    path = tmp_path / "model.zip"
    with atomic_path(path) as one, atomic_path(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]

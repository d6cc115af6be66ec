"""Claims: of several processes, on several machines with one shared folder, one computes what a file stands for."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Holder(NamedTuple):
    """
    Who holds a claim.

    :param host: Name of the machine.
    :param pid: Process.
    :param started: When the process started, so that a later one with its number is not taken for it.
    """

    host: str
    pid: int
    started: str | None

    def __str__(self) -> str:
        return f"process {self.pid} of {self.host}"

    @property
    def stale(self) -> bool:
        """Whether it is a process of this host that has ended."""
        return self.host == socket.gethostname() and start_time(self.pid) != self.started


def start_time(pid: int) -> str | None:
    """When a process started, as Linux counts it, or ``None`` if it has ended; elsewhere always ``None``."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else numbers[18]


def holder(path: Path) -> Holder | None:
    """
    Who holds a claim; nobody if its process has ended.

    :param path: The lock file.
    """
    found = _read(path)
    return None if found is None or found.stale else found


@contextmanager
def claim(path: Path) -> Iterator[Holder | None]:
    """
    Hold a claim, or learn who does.

    The lock file appears with its content, atomically, where no other is. One that a dead process of this host has left behind
    is replaced, by one process at a time.

    :param path: The lock file, deleted in the end.
    :return: ``None`` if it is this process's now, else who holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    me = Holder(socket.gethostname(), os.getpid(), start_time(os.getpid()))
    temporary = path.with_name(f".{path.name}.{me.host}.{me.pid}")
    temporary.write_text(json.dumps(me._asdict()) + "\n")
    try:
        other = _take(path, temporary)
    finally:
        temporary.unlink(missing_ok=True)
    try:
        yield other
    finally:
        if other is None:
            path.unlink(missing_ok=True)


@contextmanager
def wait_for_claim(path: Path, interval: float = 1.0) -> Iterator[None]:
    """
    Hold a claim as soon as nobody else does.

    :param path: The lock file.
    :param interval: Seconds between attempts.
    """
    while True:
        with claim(path) as other:
            if other is None:
                yield
                return
        time.sleep(interval)


def _take(path: Path, ours: Path) -> Holder | None:
    """Make our file the lock file, or say whose it is."""
    with open(Path(tempfile.gettempdir()) / f"sb3-elmur-claims-{os.getuid()}", "a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # of this host alone, where stale claims are replaced
        while True:
            try:
                os.link(ours, path)
                return None
            except FileExistsError:
                found = _read(path)
            if found is not None and not found.stale:
                return found
            if found is not None:
                os.replace(ours, path)
                return None


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None

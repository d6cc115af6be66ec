"""Run folders in which one process trains at a time."""

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from sb3_elmur.command_line import SettingsError

_claims: dict[Path, BaseFileLock] = {}  # of this process


def claim(run: Path, folder: Path) -> bool:
    """
    Let no other process train in a run folder, from now until :func:`release`, or the end of this process.

    :param run: The run folder.
    :param folder: It, or a folder in it, where the file ``.lock`` is; made if it is not there.
    :return: Whether the folder was made.
    :raises SettingsError: If another process trains there.
    """
    folder = folder.absolute()
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in _claims:
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise SettingsError(f"Another process trains in '{run}'.") from error
        _claims[folder] = lock
    return made


def release(folder: Path) -> None:
    """
    Let others train in a run folder again. The lock's file stays: whoever waits for it would hold a deleted one.

    :param folder: Of :func:`claim`.
    """
    if (lock := _claims.pop(folder.absolute(), None)) is not None:
        lock.release()

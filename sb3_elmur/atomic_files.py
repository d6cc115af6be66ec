"""Files that are either complete or absent, whatever interrupts their writing."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str], replace: bool = True) -> Iterator[Path]:
    """
    Write a file under a temporary name beside its own, which it gets once its bytes are on the disk.

    If an error occurs, the temporary file is deleted.

    :param path: The file to create; the temporary name has the same suffix.
    :param replace: Whether to replace a file of that name. Otherwise, of several processes that create it, only one does.
    :return: The temporary name, which must be a file at the end of the context.
    :raises FileExistsError: If the file is there, and must not be replaced.
    """
    path = Path(path)
    # processes in containers or on other machines may have the same number
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        flush(temporary)
        if replace:
            os.replace(temporary, path)
        else:
            _link(temporary, path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """
    Wait until the bytes of a file are on the disk.

    :param path: The file.
    :raises OSError: If they cannot be, as on a disk that is full.
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _link(temporary: Path, path: Path) -> None:
    """Give a file a name that no other has; without hard links, as on exFAT, by a copy, which is seen while it grows."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        path.open("xb").close()
        try:
            path.write_bytes(temporary.read_bytes())
        except BaseException:
            path.unlink()
            raise


def _flush_folder(folder: Path) -> None:
    """Make the new name last through a loss of power; Windows, which cannot open folders, sees to it itself."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

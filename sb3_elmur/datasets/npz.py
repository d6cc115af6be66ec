"""Arrays of .npz files that are not trusted: nothing is unpickled, and sizes are checked before memory is taken."""

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from sb3_elmur.datasets.fields import DataError, readable

HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
HEADER_BYTES = 4096
ZIP_END_BYTES = 22  # the last record of a file; its bytes 10 and 11 count what there is
CHUNK_BYTES = 2**18
EXPANSION = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}  # bytes that one byte in the file can stand for


class StoredArray:
    """
    An array in an open .npz file, read in two steps.

    :param key: Its name.
    :param member: The file within the .npz file.
    :param info: What the directory says of it.
    :param file_bytes: Size of the .npz file.
    """

    def __init__(self, key: str, member: IO[bytes], info: zipfile.ZipInfo, file_bytes: int) -> None:
        self._key, self._member, self._info, self._file_bytes = key, member, info, file_bytes

    def read_header(self) -> None:
        """
        Read shape and dtype.

        :raises DataError: If there is no array, it holds objects, or it claims to be larger or smaller than what is there.
        """
        info, expansion = self._info, EXPANSION.get(self._info.compress_type)
        if expansion is None:
            raise DataError(f"`{self._key}` must be stored or deflated. Found compression method {info.compress_type}.")
        if info.compress_size > self._file_bytes or info.file_size > expansion * info.compress_size:
            raise DataError(f"`{self._key}` claims {info.file_size} bytes, more than the file can hold.")
        with readable(f"`{self._key}`"):
            start = io.BytesIO(self._member.read(HEADER_BYTES))
            self.shape, self._fortran_order, self.dtype = HEADER_READERS[np.lib.format.read_magic(start)](start)
        if self.dtype.hasobject:
            raise DataError(f"`{self._key}` holds Python objects. Unpickling them could run any code, so it is never done.")
        self._nbytes = math.prod(self.shape) * self.dtype.itemsize
        held = info.file_size - start.tell()
        if min(self.shape, default=0) < 0 or self._nbytes != held:
            raise DataError(f"`{self._key}` claims the shape {self.shape} of {self.dtype}, but holds {held} bytes.")
        self._begun = start.read()

    def read(self) -> np.ndarray:
        """The array; its header must have been read."""
        buffer = np.empty(self._nbytes, dtype=np.uint8)
        done = len(self._begun)
        buffer[:done] = np.frombuffer(self._begun, dtype=np.uint8)
        with readable(f"`{self._key}`"):
            while done < self._nbytes:
                chunk = self._member.read(min(CHUNK_BYTES, self._nbytes - done))  # the last one checks the CRC
                if not chunk:
                    raise EOFError(f"{done} of {self._nbytes} bytes are there.")
                buffer[done : done + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
                done += len(chunk)
        return buffer.view(self.dtype).reshape(self.shape, order="F" if self._fortran_order else "C")


@contextmanager
def open_arrays(path: Path) -> Iterator[dict[str, StoredArray]]:
    """The arrays of an .npz file. All are counted and opened, used or not, so that damage cannot hide one."""
    with ExitStack() as stack:
        with readable("the .npz file"):
            file = stack.enter_context(path.open("rb"))
            archive = stack.enter_context(zipfile.ZipFile(file))
            members = [(stack.enter_context(archive.open(info)), info) for info in archive.infolist()]
            file_bytes = file.seek(0, os.SEEK_END)
            file.seek(file_bytes - len(archive.comment) - ZIP_END_BYTES)
            listed = int.from_bytes(file.read(12)[10:], "little")
        if listed != len(members):
            raise DataError(f"the .npz file must hold {listed} arrays. Found {len(members)}.")
        arrays: dict[str, StoredArray] = {}
        for member, info in members:
            key = info.filename.removesuffix(".npy")
            if key in arrays:
                raise DataError(f"`{key}` must be there once. Found it twice.")
            arrays[key] = StoredArray(key, member, info, file_bytes)
        yield arrays

"""Arrays of .npz files that are not trusted: nothing is unpickled, and sizes are checked before memory is taken."""

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from sb3_elmur.datasets.fields import DataError, readable

HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
HEADER_BYTES = 4096
ZIP_END_BYTES = 22  # the last record of a file; its bytes 10 and 11 count what there is
EXPANSION = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}  # bytes that one byte in the file can stand for
LARGE_BYTES, MOST_EXPANSION = 2**26, 100  # of arrays that are larger than the first, so many bytes for one in the file


class StoredArray:
    """
    An array in an open .npz file, read in two steps.

    :param key: Its name.
    :param archive: The .npz file.
    :param info: What the directory says of it.
    :param file_bytes: Size of the .npz file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __init__(self, key: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, file_bytes: int) -> None:
        self._key, self._archive, self._info, self._file_bytes = key, archive, info, file_bytes

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
        if info.file_size > max(LARGE_BYTES, MOST_EXPANSION * info.compress_size):
            raise DataError(
                f"`{self._key}` must not be packed so tightly: {info.compress_size} bytes stand for {info.file_size}. "
                "Store it by `numpy.savez`, without compression."
            )
        with readable(f"`{self._key}`"), self._archive.open(info) as member:
            start = io.BytesIO(member.read(HEADER_BYTES))
            self.shape, _, self.dtype = HEADER_READERS[np.lib.format.read_magic(start)](start)
        if self.dtype.hasobject:
            raise DataError(f"`{self._key}` holds Python objects. Unpickling them could run any code, so it is never done.")
        held = info.file_size - start.tell()
        whole = all(type(n) is int and n >= 0 for n in self.shape)
        if not whole or math.prod(self.shape) * self.dtype.itemsize != held:
            raise DataError(f"`{self._key}` claims the shape {self.shape} of {self.dtype}, but holds {held} bytes.")

    def read(self) -> np.ndarray:
        """
        Read what the header, which must have been read, has announced.

        :return: The array.
        :raises DataError: If its bytes are damaged.
        """
        with readable(f"`{self._key}`"), self._archive.open(self._info) as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
            member.read(1)  # at the end, which checks the CRC
        return array


@contextmanager
def open_arrays(path: Path) -> Iterator[dict[str, StoredArray]]:
    """
    The arrays of an .npz file. All are counted and opened, used or not, so that damage cannot hide one.

    :param path: The file.
    :return: The arrays by their names, which can be read while the context lasts.
    :raises DataError: If it is no .npz file, or damaged.
    """
    with ExitStack() as stack:
        with readable("the .npz file"):
            if path.exists() and not path.is_file():
                raise OSError("It is a folder, a pipe or a device.")
            file = stack.enter_context(path.open("rb"))
            archive = stack.enter_context(zipfile.ZipFile(file))
            members = archive.infolist()
            for info in members:
                archive.open(info).close()
            file_bytes = file.seek(0, os.SEEK_END)
            file.seek(file_bytes - len(archive.comment) - ZIP_END_BYTES)
            listed = int.from_bytes(file.read(12)[10:], "little")
        if listed != len(members):
            raise DataError(f"the .npz file must hold {listed} arrays. Found {len(members)}.")
        arrays: dict[str, StoredArray] = {}
        for info in members:
            key = info.filename.removesuffix(".npy")
            if key in arrays:
                raise DataError(f"`{key}` must be there once. Found it twice.")
            arrays[key] = StoredArray(key, archive, info, file_bytes)
        yield arrays

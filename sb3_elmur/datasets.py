"""
Episodes for offline behaviour cloning: folders of .npz files, one per episode, and Minari data sets.

The .npz files are those of MIKASA-Robo (arXiv 2502.10550): an array for each key of a Dict observation space, or
``observation``; ``action``; and, if there, ``reward``, ``success`` and ``done``. Others are ignored. Row t of each belongs to
step t, and the observation is the one before the action. Files are not trusted: nothing is unpickled, and sizes are checked
before memory is taken.
"""

import io
import math
import os
import re
import zipfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from torch.utils.data import Dataset

LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
NUMBER = spaces.Box(-np.inf, np.inf, ())
NOT_OBSERVED = ("action", "reward", "success", "done")
HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
HEADER_BYTES = 4096
ZIP_END_BYTES = 22  # the last record of a file; its bytes 10 and 11 count what there is
CHUNK_BYTES = 2**18
EXPANSION = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}  # bytes that one byte in the file can stand for
SHOWN_PROBLEMS = 5


class DataError(ValueError):
    """Data that cannot be used. The message names file and key, what was found, and what is allowed."""


@dataclass(frozen=True, eq=False)
class Episode:
    """
    T steps of one episode. The arrays may be shared with the data set's cache: do not change them in place.

    :param observations: What was observed before each action, (T, ...), or a dict of such arrays.
    :param actions: (T, ...).
    :param rewards: (T,) float32, zeros where the data has none.
    """

    observations: np.ndarray | dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        observations = self.observations.values() if isinstance(self.observations, dict) else [self.observations]
        return sum(array.nbytes for array in (*observations, self.actions, self.rewards))


@dataclass(frozen=True)
class Field:
    """
    An array of an episode, and what its space demands of each of its T rows.

    :param key: Name of the array.
    :param space: Box, Discrete, MultiDiscrete or MultiBinary.
    :param clip: Whether to clip to the bounds of a Box, which are ignored otherwise.
    """

    key: str
    space: spaces.Space
    clip: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return tuple(self.space.shape or ())

    @property
    def dtype(self) -> np.dtype:
        """What arrays are converted to."""
        return np.dtype(self.space.dtype)

    def check_header(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """
        :param shape: Of the stored array.
        :param dtype: Of the stored array.
        :raises DataError: If no array of that kind can belong to the space.
        """
        if not shape or shape[1:] != self.shape:
            expected = ", ".join(("T", *map(str, self.shape))) + ("" if self.shape else ",")
            raise DataError(f"`{self.key}` must have the shape ({expected}). Found {shape}.")
        if shape[0] < 1:
            raise DataError(f"`{self.key}` must have at least one step. Found shape {shape}.")
        floating = self.dtype.kind == "f"
        if dtype.kind not in ("fiub" if floating else "iub"):
            allowed = "floating-point or integer" if floating else "integer"
            raise DataError(f"`{self.key}` must hold {allowed} numbers, to become {self.dtype}. Found {dtype}.")

    def convert(self, array: np.ndarray) -> np.ndarray:
        """
        :param array: Of a shape and dtype that :meth:`check_header` accepts.
        :return: The same in the space's dtype, clipped if it is to be.
        :raises DataError: If a number is not finite in this dtype, is an integer that the dtype cannot hold exactly, or does
            not belong to a discrete space.
        """
        fits = isinstance(self.space, spaces.Box) and np.can_cast(array.dtype, self.dtype)
        if array.dtype.kind != "f" and not fits:
            low, high = self._integers()
            self._require((array >= low) & (array <= high), array, f"lie between {low} and {high}")
        with np.errstate(over="ignore"):
            converted = array.astype(self.dtype, order="C", copy=False)
        if self.dtype.kind == "f":
            self._require(np.isfinite(converted), array, f"be finite in {self.dtype}")
        if self.clip and isinstance(self.space, spaces.Box):
            converted = np.clip(converted, self.space.low, self.space.high)
        return converted

    def _integers(self) -> tuple[Any, Any]:
        """The smallest and the largest integer that may be stored."""
        if isinstance(self.space, spaces.Discrete):
            return self.space.start, self.space.start + self.space.n - 1
        if isinstance(self.space, spaces.MultiDiscrete):
            return self.space.start, self.space.start + self.space.nvec - 1
        if isinstance(self.space, spaces.MultiBinary) or self.dtype.kind == "b":
            return 0, 1
        if self.dtype.kind == "f":
            exact = 2 ** (np.finfo(self.dtype).nmant + 1)
            return -exact, exact
        return np.iinfo(self.dtype).min, np.iinfo(self.dtype).max

    def _require(self, good: np.ndarray, array: np.ndarray, what: str) -> None:
        if not good.all():
            index = tuple(int(i) for i in np.argwhere(~good)[0])
            raise DataError(f"`{self.key}` must {what}. Found {array[index]} at index {index}.")


def episode_fields(observation_space: spaces.Space, action_space: spaces.Space) -> list[Field]:
    """
    The arrays of an episode: those of the observation, then ``action``, then ``reward``.

    :param observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these.
    :param action_space: Box, Discrete, MultiDiscrete or MultiBinary.
    :raises ValueError: If a space is another one, or a key of the Dict is taken.
    """
    observed = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"observation": observation_space}
    taken = sorted(set(observed) & set(NOT_OBSERVED))
    if taken:
        raise ValueError(f"`observation_space` must not have the keys {', '.join(NOT_OBSERVED)}. Received {', '.join(taken)}.")
    for name, space in (*(("observation_space", space) for space in observed.values()), ("action_space", action_space)):
        if not isinstance(space, LEAVES):
            kinds = ", ".join(kind.__name__ for kind in LEAVES) + (", or a Dict of these" if name != "action_space" else "")
            raise ValueError(f"`{name}` must be a {kinds}. Received {type(space).__name__}.")
    observations = [Field(key, space) for key, space in observed.items()]
    return [*observations, Field("action", action_space, clip=True), Field("reward", NUMBER)]


class Episodes(Dataset[Episode]):
    """
    Random access to the episodes of a data set, which are read when asked for and kept while they fit in memory.

    ``lengths`` holds the steps of every episode, int64. Instances can be pickled; each worker of a ``DataLoader`` has a cache
    of its own, which ``persistent_workers=True`` keeps.

    :param observation_space: What observations must belong to, bounds of a Box aside.
    :param action_space: What actions must belong to; those of a Box are clipped.
    :param cache_bytes: How many bytes of episodes to keep.
    """

    lengths: np.ndarray

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, cache_bytes: int) -> None:
        self.fields = episode_fields(observation_space, action_space)
        self.cache_bytes = cache_bytes
        self._observes_dict = isinstance(observation_space, spaces.Dict)
        self._cache: dict[int, Episode] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Episode:
        index = range(len(self))[index]
        episode = self._cache.get(index)
        if episode is None:
            episode = self._load(index)
            if self._cached_bytes + episode.nbytes <= self.cache_bytes:
                self._cache[index] = episode
                self._cached_bytes += episode.nbytes
        return episode

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}, "_cached_bytes": 0}

    @abstractmethod
    def _load(self, index: int) -> Episode:
        """Read an episode from disk, or raise a :class:`DataError`."""

    def _episode(self, arrays: dict[str, np.ndarray]) -> Episode:
        """An episode of converted arrays."""
        actions = arrays.pop("action")
        rewards = arrays.pop("reward", None)
        if rewards is None:
            rewards = np.zeros(len(actions), dtype=np.float32)
        return Episode(arrays if self._observes_dict else arrays["observation"], actions, rewards)


class NpzEpisodes(Episodes):
    """
    The .npz files of a folder, in the order of the numbers in their names, without sub-folders and hidden files.

    All headers are checked at once, contents when an episode is read.

    :param folder: Where the files are.
    :param observation_space: See :class:`Episodes`.
    :param action_space: See :class:`Episodes`.
    :param cache_bytes: See :class:`Episodes`.
    :raises DataError: If there are none, or some that cannot be used; and by indexing, if an episode has changed or its
        contents are damaged or do not belong to the spaces.
    """

    def __init__(
        self, folder: str | Path, observation_space: spaces.Space, action_space: spaces.Space, cache_bytes: int = 2**30
    ) -> None:
        super().__init__(observation_space, action_space, cache_bytes)
        self.paths = sorted((path for path in Path(folder).glob("*.npz") if path.name[0] != "."), key=_natural_order)
        if not self.paths:
            raise DataError(f"{folder} must be a folder with .npz files. Found none{_where_else(Path(folder))}.")
        lengths, problems = [], []
        for path in self.paths:
            try:
                with _naming(path), _open_arrays(path) as arrays:
                    lengths.append(self._check(arrays))
            except DataError as error:
                problems.append(str(error))
        if problems:
            shown = "\n".join(problems[:SHOWN_PROBLEMS])
            raise DataError(f"{len(problems)} of {len(self.paths)} files cannot be used. The first are:\n{shown}")
        self.lengths = np.array(lengths, dtype=np.int64)

    def _check(self, arrays: "dict[str, _StoredArray]") -> int:
        """The number of steps, if the headers are right."""
        fields = {field.key: field for field in self.fields}
        for key in NOT_OBSERVED[1:]:
            if key in arrays:
                fields.setdefault(key, Field(key, NUMBER))
            else:
                fields.pop(key, None)
        for key, field in fields.items():
            if key not in arrays:
                raise DataError(f"`{key}` is missing. Found {', '.join(sorted(arrays)) or 'nothing'}.")
            arrays[key].read_header()
            field.check_header(arrays[key].shape, arrays[key].dtype)
        lengths = {key: arrays[key].shape[0] for key in fields}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{length} in `{key}`" for key, length in lengths.items())
            raise DataError(f"All arrays must have the same number of steps. Found {found}.")
        return lengths["action"]

    def _load(self, index: int) -> Episode:
        path = self.paths[index]
        with _naming(path), _open_arrays(path) as arrays:
            length = self._check(arrays)
            if length != self.lengths[index]:
                raise DataError(f"All files must stay as they were. Found {length} steps instead of {self.lengths[index]}.")
            fields = [field for field in self.fields if field.key in arrays]
            return self._episode({field.key: field.convert(arrays[field.key].read()) for field in fields})


class MinariEpisodes(Episodes):
    """
    A Minari data set, without the observation after the last action.

    :param dataset: Id of a data set on this machine, or a folder with one.
    :param observation_space: See :class:`Episodes`.
    :param action_space: See :class:`Episodes`.
    :param cache_bytes: See :class:`Episodes`.
    :raises DataError: If there is none, or it cannot be used; and by indexing, if an episode's contents are damaged or do not
        belong to the spaces.
    :raises DependencyNotInstalled: Without Minari.
    """

    def __init__(
        self, dataset: str | Path, observation_space: spaces.Space, action_space: spaces.Space, cache_bytes: int = 2**30
    ) -> None:
        super().__init__(observation_space, action_space, cache_bytes)
        minari = import_minari()
        with _naming(dataset):
            with _readable("the Minari data set"):
                self.dataset = _open_minari(minari, dataset)
                metadata = self.dataset.storage.get_episode_metadata(self.dataset.episode_indices)
                self.lengths = np.array([episode["total_steps"] for episode in metadata], dtype=np.int64)
            if not len(self):
                raise DataError("The Minari data set must have at least one episode. Found none.")
            self._check_spaces(int(self.lengths.min()))

    def _check_spaces(self, length: int) -> None:
        """Compare the data set's spaces to ours; the shortest episode has ``length`` steps."""
        observed = self.dataset.observation_space
        stored = dict(observed.spaces) if isinstance(observed, spaces.Dict) else {"observation": observed}
        stored["action"] = self.dataset.action_space
        for field in self.fields[:-1]:
            space = stored.get(field.key)
            if space is None or space.shape is None:
                raise DataError(f"`{field.key}` is missing, or not an array. Found {', '.join(sorted(stored))}.")
            field.check_header((length, *space.shape), np.dtype(space.dtype))

    def _load(self, index: int) -> Episode:
        with _naming(f"episode {index} of {self.dataset.id}"):
            with _readable("it"):
                data = self.dataset[index]
                observed = data.observations if self._observes_dict else {"observation": data.observations}
                stored = observed | {"action": data.actions, "reward": data.rewards}
                arrays = {field.key: np.asarray(stored[field.key]) for field in self.fields}
            length = int(self.lengths[index])
            for field in self.fields:
                array, rows = arrays[field.key], length + (field.key in observed)
                field.check_header(array.shape, array.dtype)
                if len(array) != rows:
                    raise DataError(f"`{field.key}` must have {rows} rows. Found {len(array)}.")
                arrays[field.key] = field.convert(array[:length])
            return self._episode(arrays)


def open_episodes(path_or_id: str | Path, observation_space: spaces.Space, action_space: spaces.Space) -> Episodes:
    """
    Open a data set of any format.

    :param path_or_id: A folder of .npz files, a folder of a Minari data set, or ``minari:`` and the id of one.
    :param observation_space: See :class:`Episodes`.
    :param action_space: See :class:`Episodes`.
    :raises DataError: If nothing is there, or it cannot be used.
    :raises DependencyNotInstalled: If it needs Minari.
    """
    name = str(path_or_id)
    if name.startswith("minari:"):
        return MinariEpisodes(name.removeprefix("minari:"), observation_space, action_space)
    if minari_folder(Path(path_or_id)) is not None:
        return MinariEpisodes(path_or_id, observation_space, action_space)
    return NpzEpisodes(path_or_id, observation_space, action_space)


def import_minari() -> ModuleType:
    """
    :raises DependencyNotInstalled: Without Minari.
    """
    try:
        return import_module("minari")
    except ImportError as error:
        raise DependencyNotInstalled('Minari is not installed. Run `pip install "sb3-elmur[minari]"`.') from error


def _open_minari(minari: ModuleType, dataset: str | Path) -> Any:
    """A ``MinariDataset``, by id or folder."""
    folder = minari_folder(Path(dataset))
    if folder is not None:
        return minari.MinariDataset(folder)
    try:
        return minari.load_dataset(str(dataset))
    except FileNotFoundError:
        raise FileNotFoundError(f"It is not on this machine. Run `minari download {dataset}`.") from None


def minari_folder(folder: Path) -> Path | None:
    """Where in a folder Minari's files are, if it is one of a Minari data set."""
    return next((data for data in (folder, folder / "data") if (data / "metadata.json").is_file()), None)


class _StoredArray:
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
        with _readable(f"`{self._key}`"):
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
        with _readable(f"`{self._key}`"):
            while done < self._nbytes:
                chunk = self._member.read(min(CHUNK_BYTES, self._nbytes - done))  # the last one checks the CRC
                if not chunk:
                    raise EOFError(f"{done} of {self._nbytes} bytes are there.")
                buffer[done : done + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
                done += len(chunk)
        return buffer.view(self.dtype).reshape(self.shape, order="F" if self._fortran_order else "C")


@contextmanager
def _open_arrays(path: Path) -> Iterator[dict[str, _StoredArray]]:
    """The arrays of an .npz file. All are counted and opened, used or not, so that damage cannot hide one."""
    with ExitStack() as stack:
        with _readable("the .npz file"):
            file = stack.enter_context(path.open("rb"))
            archive = stack.enter_context(zipfile.ZipFile(file))
            members = [(stack.enter_context(archive.open(info)), info) for info in archive.infolist()]
            file_bytes = file.seek(0, os.SEEK_END)
            file.seek(file_bytes - len(archive.comment) - ZIP_END_BYTES)
            listed = int.from_bytes(file.read(12)[10:], "little")
        if listed != len(members):
            raise DataError(f"the .npz file must hold {listed} arrays. Found {len(members)}.")
        arrays: dict[str, _StoredArray] = {}
        for member, info in members:
            key = info.filename.removesuffix(".npy")
            if key in arrays:
                raise DataError(f"`{key}` must be there once. Found it twice.")
            arrays[key] = _StoredArray(key, member, info, file_bytes)
        yield arrays


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn whatever zipfile, numpy and Minari raise on damaged data into a :class:`DataError`."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{what} cannot be read. {type(error).__name__}: {error}") from error


@contextmanager
def _naming(source: object) -> Iterator[None]:
    """Put the source before the message of a :class:`DataError`."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{source}: {error}") from error.__cause__


def _natural_order(path: Path) -> tuple[list[Any], str]:
    """Sorts names by the numbers in them."""
    parts: Iterable[tuple[int, str]] = enumerate(re.split(r"(\d+)", path.name))
    return [int(part) if i % 2 else part for i, part in parts], path.name


def _where_else(folder: Path) -> str:
    """A hint at what a folder has instead of .npz files."""
    if not folder.is_dir():
        return ": it is no folder" if folder.exists() else ": it does not exist"
    below = next(folder.glob("*/*.npz"), None)
    return "" if below is None else f", but some in {below.parent}"

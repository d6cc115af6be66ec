"""
Episodes for offline behaviour cloning: folders of .npz files, one per episode, and Minari data sets.

The .npz files are those of MIKASA-Robo (arXiv 2502.10550): an array for each key of a Dict observation space, or
``observation``; ``action``; and, if there, ``reward``, ``success``, ``done`` and ``action_mask`` (:mod:`sb3_elmur.masks`),
which Minari has among the infos. Others are ignored. Row t of each belongs to step t, and the observation is the one before
the action. Files are not trusted: nothing is unpickled, and sizes are checked before memory is taken.
"""

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces
from torch.utils.data import Dataset

from sb3_elmur.datasets.fields import (
    MASK,
    NOT_OBSERVED,
    NUMBER,
    DataError,
    Field,
    check_valid,
    episode_fields,
    mask_field,
    naming,
    readable,
)
from sb3_elmur.datasets.npz import StoredArray, open_arrays
from sb3_elmur.extras import require

__all__ = [
    "DataError",
    "Episode",
    "Episodes",
    "MinariEpisodes",
    "NpzEpisodes",
    "minari_folder",
    "open_episodes",
]

SHOWN_PROBLEMS = 5
HDF5_FILE = "main_data.hdf5"  # of a Minari data set


@dataclass(frozen=True, eq=False)
class Episode:
    """
    T steps of one episode. The arrays may be shared with the data set's cache: do not change them in place.

    :param observations: What was observed before each action, (T, ...), or a dict of such arrays.
    :param actions: (T, ...).
    :param rewards: (T,) float32, zeros where the data has none.
    :param action_masks: Which choices were valid, (T, n) int8; ``None`` where the data does not say.
    """

    observations: np.ndarray | dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    action_masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        observations = self.observations.values() if isinstance(self.observations, dict) else [self.observations]
        masks = () if self.action_masks is None else (self.action_masks,)
        return sum(array.nbytes for array in (*observations, self.actions, self.rewards, *masks))


class Episodes(Dataset[Episode]):
    """
    Random access to the episodes of a data set, which are read when asked for and kept while they fit in memory.

    ``observation_space`` is that of the observations, and ``lengths`` holds the steps of every episode, int64. Instances can
    be pickled; each worker of a ``DataLoader`` has a cache of its own, which ``persistent_workers=True`` keeps.

    :param observation_space: What observations must belong to, bounds of a Box aside.
    :param action_space: What actions must belong to; those of a Box are clipped.
    :param cache_bytes: How many bytes of episodes to keep.
    """

    lengths: np.ndarray

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, cache_bytes: int) -> None:
        self.observation_space = observation_space
        self.fields = episode_fields(observation_space, action_space)
        self.mask_field = mask_field(observation_space, action_space)
        self.action_space = action_space
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
        masks = arrays.pop(MASK, None) if self.mask_field else None
        if masks is not None:
            check_valid(actions, masks, self.action_space)
        rewards = arrays.pop("reward", None)
        if rewards is None:
            rewards = np.zeros(len(actions), dtype=np.float32)
        return Episode(arrays if self._observes_dict else arrays["observation"], actions, rewards, masks)


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
                with naming(path), open_arrays(path) as arrays:
                    lengths.append(self._check(arrays))
            except DataError as error:
                problems.append(str(error))
        if problems:
            first = "\n".join(problems[:SHOWN_PROBLEMS])
            raise DataError(f"{len(problems)} of {len(self.paths)} files cannot be used. The first are:\n{first}")
        self.lengths = np.array(lengths, dtype=np.int64)

    def _check(self, arrays: dict[str, StoredArray]) -> int:
        """The number of steps, if the headers are right."""
        fields = {field.key: field for field in self._fields_of(arrays)}
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
            counts = ", ".join(f"{length} in `{key}`" for key, length in lengths.items())
            raise DataError(f"All arrays must have the same number of steps. Found {counts}.")
        return lengths["action"]

    def _fields_of(self, arrays: dict[str, StoredArray]) -> list[Field]:
        """The fields of a file, of which ``action_mask`` is optional."""
        masked = self.mask_field is not None and MASK in arrays
        return [*self.fields, self.mask_field] if masked else self.fields  # type: ignore[list-item]

    def _load(self, index: int) -> Episode:
        path = self.paths[index]
        with naming(path), open_arrays(path) as arrays:
            length = self._check(arrays)
            if length != self.lengths[index]:
                raise DataError(f"All files must stay as they were. Found {length} steps instead of {self.lengths[index]}.")
            fields = [field for field in self._fields_of(arrays) if field.key in arrays]
            return self._episode({field.key: field.convert(arrays[field.key].read()) for field in fields})


class MinariEpisodes(Episodes):
    """
    A Minari data set, without the observation after the last action.

    :param dataset: Id of a data set on this machine, or a folder with one.
    :param observation_space: See :class:`Episodes`.
    :param action_space: See :class:`Episodes`.
    :param cache_bytes: See :class:`Episodes`.
    :raises DataError: If there is none, or some episodes cannot be used; and by indexing, if an episode's contents are damaged
        or do not belong to the spaces.
    :raises DependencyNotInstalled: Without Minari.
    """

    def __init__(
        self, dataset: str | Path, observation_space: spaces.Space, action_space: spaces.Space, cache_bytes: int = 2**30
    ) -> None:
        super().__init__(observation_space, action_space, cache_bytes)
        minari = require("minari", "minari")
        with naming(dataset):
            with readable("the Minari data set"):
                self.dataset = _open_minari(minari, dataset)
                metadata = self.dataset.storage.get_episode_metadata(self.dataset.episode_indices)
                self.lengths = np.array([episode["total_steps"] for episode in metadata], dtype=np.int64)
            if not len(self):
                raise DataError("The Minari data set must have at least one episode. Found none.")
            self._check_spaces(int(self.lengths.min()))
            if problems := list(self._bad_rows()):
                first = "\n".join(problems[:SHOWN_PROBLEMS])
                raise DataError(f"{len(problems)} of {len(self)} episodes cannot be used. The first are:\n{first}")

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

    def _bad_rows(self) -> Iterator[str]:
        """Episodes with a wrong number of rows, as their headers say; other storages than HDF5 have no headers."""
        path = Path(self.dataset.storage.data_path) / HDF5_FILE
        if not path.is_file():
            return
        with readable("the Minari data set"), import_module("h5py").File(path) as file:
            for index, number in enumerate(self.dataset.episode_indices):
                episode = file[f"episode_{number}"]
                for field in self.fields:
                    part = {"action": "actions", "reward": "rewards"}.get(field.key, "observations")
                    stored = episode[f"{part}/{field.key}" if part == "observations" and self._observes_dict else part]
                    rows = int(self.lengths[index]) + (part == "observations")
                    if not stored.shape or stored.shape[0] != rows:
                        yield f"episode {index}: `{field.key}` must have {rows} rows. Found shape {stored.shape}."
                        break

    def _load(self, index: int) -> Episode:
        with naming(f"episode {index} of {self.dataset.id}"):
            with readable("it"):
                data = self.dataset[index]
                observed = data.observations if self._observes_dict else {"observation": data.observations}
                stored = observed | {"action": data.actions, "reward": data.rewards}
                fields = self.fields
                if self.mask_field is not None and MASK in (data.infos or {}):
                    fields, stored[MASK] = [*fields, self.mask_field], data.infos[MASK]
                arrays = {field.key: np.asarray(stored[field.key]) for field in fields}
            length = int(self.lengths[index])
            for field in fields:
                array, rows = arrays[field.key], length + (field.key in {*observed, MASK})
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
    :return: The data set.
    :raises DataError: If nothing is there, or it cannot be used.
    :raises DependencyNotInstalled: If it needs Minari.
    """
    name = str(path_or_id)
    if name.startswith("minari:"):
        return MinariEpisodes(name.removeprefix("minari:"), observation_space, action_space)
    if minari_folder(Path(path_or_id)) is not None:
        return MinariEpisodes(path_or_id, observation_space, action_space)
    return NpzEpisodes(path_or_id, observation_space, action_space)


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

"""Formats in which episodes are recorded: a folder of .npz files, and a Minari data set."""

import inspect
import json
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from tqdm import tqdm

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.datasets.fields import MASK
from sb3_elmur.extras import require
from sb3_elmur.recording.recorder import Recorder, Recording

SETTINGS = "recording.json"
FAILED = "failed.json"  # numbers of the episodes that were left out
Settings = dict[str, Any]


def write_npz(recorder: Recorder, output: Path, n_episodes: int, settings: Settings, progress_bar: bool) -> None:
    """
    Write the episodes that are not there yet, each complete or not at all.

    :param recorder: Plays them.
    :param output: Where the files go.
    :param n_episodes: How many there are to be in the end.
    :param settings: How they are made, for ``recording.json``.
    :param progress_bar: Whether to show one.
    :raises ValueError: If the episodes that are there were made in another way.
    """
    output.mkdir(parents=True, exist_ok=True)
    _claim(output, settings)
    paths = [output / f"train_data_{index}.npz" for index in range(n_episodes)]
    failed = _read_failed(output / FAILED)
    whole = [zipfile.is_zipfile(path) for path in paths]  # others are played again
    if recorder.only_successful:
        recorder.outcomes = [is_whole for index, is_whole in enumerate(whole) if is_whole or index in failed]
    left = [index for index, is_whole in enumerate(whole) if not (is_whole or index in failed)]
    for index in _progress(left, n_episodes, progress_bar):
        recording = recorder.play(index)
        if recording is None:
            failed |= _read_failed(output / FAILED) | {index}  # another process may record, too
            with atomic_path(output / FAILED) as path:
                path.write_text(json.dumps(sorted(failed)))
            continue
        arrays, successes, _ = recording
        steps = len(successes)
        arrays = {key: array[:steps] for key, array in arrays.items()}
        if any(success is not None for success in successes):
            arrays["success"] = np.array([bool(success) for success in successes], dtype=np.int64)
        arrays["done"] = (np.arange(steps) == steps - 1).astype(np.int64)
        with atomic_path(paths[index]) as path, zipfile.ZipFile(path, "w") as archive:
            for key, array in arrays.items():  # as `np.savez`, which reserves some keys
                with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def write_minari(recorder: Recorder, output: Path, n_episodes: int, settings: Settings, progress_bar: bool) -> None:
    """
    Write a Minari data set, lossless images included, which appears when it is complete.

    :param recorder: Plays the episodes.
    :param output: Its folder, named as the data set.
    :param n_episodes: Number of episodes.
    :param settings: How they are made, for ``recording.json``.
    :param progress_bar: Whether to show one.
    :raises ValueError: If ``output`` is there already or is not named as Minari demands, there is nothing to write, or this
        Minari would lose a part of images.
    :raises DependencyNotInstalled: Without Minari.
    """
    create = require("minari", "minari").create_dataset_from_buffers
    lossless = {"jpeg_encoding": False} if "jpeg_encoding" in inspect.signature(create).parameters else {}
    output = output.absolute()  # Minari hands relative paths on to what resolves them anew
    name = output.name
    _check_minari(recorder.env.observation_space, output, keeps_images=bool(lossless))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=output.parent) as root, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="minari")  # asks for the author's address, among others
        with _environment_variable("MINARI_DATASETS_PATH", root):
            recordings = ((index, recorder.play(index)) for index in _progress(range(n_episodes), n_episodes, progress_bar))
            create(
                name,
                (_minari_buffer(recorder, index, recording) for index, recording in recordings if recording is not None),
                env=recorder.env,
                algorithm_name=settings["expert"],
                **lossless,
            )
        if recorder.only_successful and not any(recorder.outcomes):
            raise ValueError(f"`only_successful` leaves nothing to write: none of {n_episodes} episodes succeeded.")
        (Path(root) / name / SETTINGS).write_text(_to_json(settings))
        os.replace(Path(root) / name, output)


def _check_minari(observation_space: spaces.Space, output: Path, keeps_images: bool) -> None:
    """Refuse what Minari would not write, or not as it is."""
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    if not keeps_images and any(part.dtype == np.uint8 for part in parts):
        raise ValueError(
            f"`format` must be 'npz' for observations of bytes: Minari {version('minari')} would encode them as "
            "JPEG. Minari 0.5.4, which wants Python 3.11 or later, keeps them as they are. Received 'minari'."
        )
    if not re.fullmatch(r"[-\w]+-v\d+", output.name):
        raise ValueError(
            f"`output` must end in a name of letters, digits, - and _, such as tmaze-v0. Received {output.name!r}."
        )
    if output.exists():
        raise ValueError(f"`output` must not exist: a Minari data set is recorded in one go. Received '{output}'.")


def _minari_buffer(recorder: Recorder, index: int, recording: Recording) -> Any:
    """An episode as Minari takes it."""
    arrays, successes, terminated = recording
    last = np.arange(len(successes)) == len(successes) - 1
    infos = {}
    if recorder.masked:  # a row for each observation, of which the last is acted on by nobody
        infos = {MASK: np.concatenate((arrays[MASK], np.ones_like(arrays[MASK][:1])))}
    is_dict = isinstance(recorder.env.observation_space, spaces.Dict)
    return require("minari", "minari").data_collector.EpisodeBuffer(
        seed=recorder.seed + index,
        observations={key: arrays[key] for key in recorder.observed} if is_dict else arrays["observation"],
        actions=arrays["action"],
        rewards=arrays["reward"],
        terminations=last & terminated,
        truncations=last & (not terminated),
        infos=infos or None,
    )


WRITERS: dict[str, Callable[[Recorder, Path, int, Settings, bool], None]] = {"npz": write_npz, "minari": write_minari}


def _claim(folder: Path, settings: Settings) -> None:
    """
    Note the settings in a folder without episodes, or demand that they are those noted there, versions aside.

    Of several recordings that begin at once, one notes its settings, and the others compare theirs.
    """
    path = folder / SETTINGS
    has_episodes = any(folder.glob("*.npz"))  # looked for first: settings are noted before episodes
    if not path.exists():
        if has_episodes:
            raise ValueError(f"`output` must hold no episodes but recorded ones. Received '{folder}', without {SETTINGS}.")
        try:
            with atomic_path(path, replace=False) as temporary:
                temporary.write_text(_to_json(settings))
            return
        except FileExistsError:
            pass  # another recording was faster
    if not path.is_file():
        raise ValueError(f"'{path}' must be a file that says how a folder was recorded.")
    try:
        noted = {"noise": 0.0, "only_successful": False} | json.loads(path.read_text())
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"'{path}' does not say how a folder was recorded: {error}") from error
    hint = "" if has_episodes else " There are no episodes yet: if no other recording has begun there, delete that file."
    for name, value in settings.items():
        if name != "versions" and noted.get(name) != value:
            raise ValueError(
                f"`output` must be recorded with one `{name}`: '{path}' has {noted.get(name)!r}. Received {value!r}.{hint}"
            )


def _read_failed(path: Path) -> set[int]:
    """The numbers of the episodes that were played and left out."""
    if not path.exists():
        return set()
    try:
        failed = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' does not say which episodes failed: {error}") from error
    if not isinstance(failed, list) or not all(isinstance(index, int) for index in failed):
        raise ValueError(f"'{path}' must hold the numbers of episodes. Received {failed!r:.80}.")
    return set(failed)


def _to_json(settings: Settings) -> str:
    return json.dumps(settings, indent=2) + "\n"


def _progress(indices: Sequence[int], total: int, show: bool) -> Iterable[int]:
    """The indices, the last ones of ``total``, and maybe a progress bar."""
    return tqdm(indices, total=total, initial=total - len(indices), unit="episode", disable=not show)


@contextmanager
def _environment_variable(name: str, value: str) -> Iterator[None]:
    """Set a variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

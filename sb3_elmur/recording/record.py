"""
Recording of an expert's episodes into a data set for behaviour cloning.

Every episode depends on its own seed alone, so that a recording of .npz files goes on where it was interrupted, and equals one
that was not.
"""

import hashlib
import json
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium

from sb3_elmur.core.arguments import check_choice, check_count, check_range
from sb3_elmur.recording.experts import Expert, make_act
from sb3_elmur.recording.recorder import Recorder
from sb3_elmur.recording.writers import WRITERS
from sb3_elmur.saved_statistics import find_statistics

PACKAGES = ("sb3-elmur", "torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy")


def record(
    env: str | Callable[..., gymnasium.Env],
    expert: Expert,
    output: str | Path,
    n_episodes: int,
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    format: str = "npz",
    progress_bar: bool = False,
    noise: float | tuple[float, float] = 0.0,
    device: str = "auto",
    only_successful: bool = False,
) -> list[bool | None]:
    """
    Play episodes and write them to disk. Models act deterministically.

    :param env: Id of a registered environment, or a function that makes one.
    :param expert: ``"oracle"``, the environment's own ``oracle_action()``; ``"random"``; the file of a saved
        :class:`sb3_elmur.RecurrentPPO`; an object with ``predict``, such as any other model; or a function from an observation
        to an action. A saved model sees observations normalised by the statistics that belong to it
        (:func:`sb3_elmur.saved_statistics.find_statistics`); all others, and what is recorded, are what the environment shows.
    :param output: Folder to write. With ``"npz"``, episodes that are there already are kept. With ``"minari"`` there must be
        nothing yet, and the folder's name, such as ``tmaze-v0``, becomes the id of the data set.
    :param n_episodes: Number of episodes to play.
    :param seed: Episode i is reset with ``seed + i``, which also seeds the global random generators.
    :param env_kwargs: Arguments of the environment.
    :param format: ``"npz"``, a file per episode as in :mod:`sb3_elmur.datasets`, or ``"minari"``, all in one go.
    :param progress_bar: Whether to show one.
    :param noise: Share of steps at which a random action is played, while the expert's is recorded. The data then shows how to
        recover from mistakes, of which an imitator makes more than the expert (DART, Laskey et al. 2017, arXiv 1703.09327).
        Of two numbers, each episode draws its own share between them. Up to 1 they yield episodes whose course does not give
        away where the expert is heading, so that an imitator has to remember it.
    :param device: Where a saved model runs.
    :param only_successful: Leave out episodes that failed. A folder of .npz files notes their numbers, so that none is played
        again.
    :return: Of each episode that was played now whether it succeeded, ``None`` where the environment does not say; with
        ``only_successful`` of all episodes.
    :raises ValueError: If an argument is not as above, or ``output`` was recorded with other settings.
    :raises DataError: If what was played does not belong to the environment's spaces.
    :raises DependencyNotInstalled: If Minari is needed and absent.
    """
    check_count("n_episodes", n_episodes, 1)
    check_count("seed", seed, 0)
    if seed + n_episodes > 2**32:
        raise ValueError(f"`seed` + `n_episodes` must be at most 2**32. Received {seed} + {n_episodes}.")
    check_choice("format", format, tuple(WRITERS))
    least, most = check_noise(noise)
    env_kwargs = env_kwargs or {}
    described = {
        "env": env if isinstance(env, str) else _name(env),
        "env_kwargs": env_kwargs,
        "expert": _describe_expert(expert),
        "seed": seed,
        "noise": most if least == most else [least, most],
        "format": format,
        "only_successful": only_successful,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
    }
    settings = as_json(described)
    made = gymnasium.make(env, **env_kwargs) if isinstance(env, str) else env(**env_kwargs)
    try:
        recorder = Recorder(made, make_act(expert, made, device), seed, (least, most), only_successful)
        WRITERS[format](recorder, Path(output), n_episodes, settings, progress_bar)
        return recorder.outcomes
    finally:
        made.close()


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a file has of values: text of those that JSON does not know, without addresses, which differ between processes."""

    def text(value: Any) -> str:
        return getattr(value, "__qualname__", re.sub(r" at 0x[0-9a-fA-F]+", "", str(value)))

    return json.loads(json.dumps(values, default=text))


def check_noise(noise: float | Sequence[float]) -> tuple[float, float]:
    """
    The least and the largest share of random actions.

    :param noise: See :func:`record`.
    :return: Both, equal if one was given.
    :raises ValueError: If it is no share, and no two in ascending order.
    """
    shares = tuple(noise) if isinstance(noise, Sequence) else (noise,)
    for share in shares:
        check_range("noise", share, 0.0, 1.0)
    if len(shares) not in (1, 2) or shares[0] > shares[-1]:
        raise ValueError(f"`noise` must be a share of steps, or two in ascending order. Received {noise!r}.")
    return float(shares[0]), float(shares[-1])


def _describe_expert(expert: Expert) -> str:
    """What tells experts apart: a file's contents, or the name of a class or function."""
    if not isinstance(expert, str | Path):
        return _name(expert)
    path = Path(expert)
    if not path.is_file():
        return str(expert)
    statistics = find_statistics(path)
    return _describe_file(path) + ("" if statistics is None else f", normalised by {_describe_file(statistics)}")


def _describe_file(path: Path) -> str:
    return f"{path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _name(thing: object) -> str:
    """The dotted name of a class or function, or of an object's class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"

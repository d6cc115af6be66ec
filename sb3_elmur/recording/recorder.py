"""
Recording of experts into data sets for behaviour cloning. ``python -m sb3_elmur.recording --help`` tells how to use it.

Every episode depends on its own seed alone, so that a recording of .npz files goes on where it was interrupted, and equals one
that was not.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.utils import set_random_seed
from tqdm import tqdm

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.command_line import key_value
from sb3_elmur.core.config import check_choice, check_count, check_range
from sb3_elmur.datasets.episodes import DataError, episode_fields, import_minari
from sb3_elmur.ppo import RecurrentPPO

SETTINGS = "recording.json"
PACKAGES = ("sb3-elmur", "torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy")


class Model(Protocol):
    """What acts as the models of Stable-Baselines3 do."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: np.ndarray | None = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """The action for one observation, and the state for the next call."""


Expert = str | Path | Model | Callable[[Any], Any]
Act = Callable[[Any, bool], Any]


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
) -> None:
    """
    Play episodes and write them to disk. Models act deterministically.

    :param env: Id of a registered environment, or a function that makes one.
    :param expert: ``"oracle"``, the environment's own ``oracle_action()``; ``"random"``; the file of a saved
        :class:`sb3_elmur.RecurrentPPO`; an object with ``predict``, such as any other model; or a function from an observation
        to an action. They see what the environment shows, not normalised by a ``VecNormalize``.
    :param output: Folder to write. With ``"npz"``, episodes that are there already are kept. With ``"minari"`` there must be
        nothing yet, and the folder's name, such as ``tmaze-v0``, becomes the id of the data set.
    :param n_episodes: Number of episodes.
    :param seed: Episode i is reset with ``seed + i``, which also seeds the global random generators.
    :param env_kwargs: Arguments of the environment.
    :param format: ``"npz"``, a file per episode as in :mod:`sb3_elmur.datasets`, or ``"minari"``, all in one go.
    :param progress_bar: Whether to show one.
    :param noise: Share of steps at which a random action is played, while the expert's is recorded. The data then shows how to
        recover from mistakes, of which an imitator makes more than the expert (DART, Laskey et al. 2017, arXiv 1703.09327).
        Of two numbers, each episode draws its own share between them. Up to 1 they yield episodes whose course does not give
        away where the expert is heading, so that an imitator has to remember it.
    :raises ValueError: If an argument is not as above, or ``output`` was recorded with other settings.
    :raises DataError: If what was played does not belong to the environment's spaces.
    :raises DependencyNotInstalled: If Minari is needed and absent.
    """
    check_count("n_episodes", n_episodes, 1)
    check_count("seed", seed, 0)
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
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
    }
    settings = json.loads(json.dumps(described, default=repr))
    made = gymnasium.make(env, **env_kwargs) if isinstance(env, str) else env(**env_kwargs)
    try:
        recorder = Recorder(made, make_act(expert, made), seed, (least, most))
        WRITERS[format](recorder, Path(output), n_episodes, settings, progress_bar)
    finally:
        made.close()


def check_noise(noise: float | Sequence[float]) -> tuple[float, float]:
    """
    The least and the largest share of random actions.

    :param noise: See :func:`record`.
    :raises ValueError: If it is no share, and no two in ascending order.
    """
    shares = tuple(noise) if isinstance(noise, Sequence) else (noise,)
    for share in shares:
        check_range("noise", share, 0.0, 1.0)
    if len(shares) not in (1, 2) or shares[0] > shares[-1]:
        raise ValueError(f"`noise` must be a share of steps, or two in ascending order. Received {noise!r}.")
    return float(shares[0]), float(shares[-1])


class Recording(NamedTuple):
    """
    An episode of T steps, as converted arrays.

    :param arrays: By the keys of :func:`sb3_elmur.datasets.episodes.episode_fields`, those of observations with T + 1 rows.
    :param successes: Every step's ``info["is_success"]``, ``None`` where it was absent.
    :param terminated: Whether the environment ended the episode, rather than a time limit.
    """

    arrays: dict[str, np.ndarray]
    successes: list[bool | None]
    terminated: bool


class Recorder:
    """
    Plays episodes that depend on their seeds alone.

    :param env: Where to play.
    :param act: Who plays, see :func:`make_act`.
    :param seed: Seed of the first episode.
    :param noise: Least and largest share of an episode's steps at which a random action is played.
    """

    def __init__(self, env: gymnasium.Env, act: Act, seed: int, noise: tuple[float, float] = (0.0, 0.0)) -> None:
        self.env, self.act, self.seed, self.noise = env, act, seed, noise
        self.fields = episode_fields(env.observation_space, env.action_space)
        self.observed = [field.key for field in self.fields[:-2]]

    def play(self, index: int) -> Recording:
        """
        Play an episode.

        :param index: Its number.
        :raises DataError: If it does not belong to the environment's spaces.
        """
        seed = self.seed + index
        set_random_seed(seed)
        self.env.action_space.seed(np.random.randint(2**31))  # not `seed`, which would draw what the environment draws
        chance = np.random.default_rng((seed, 1))  # a stream of its own, beside the environment's
        least, most = self.noise
        noise = chance.uniform(least, most) if least < most else most
        rows: dict[str, list[Any]] = {field.key: [] for field in self.fields}
        successes: list[bool | None] = []
        observation, _ = self.env.reset(seed=seed)
        self._note(rows, observation)
        terminated = truncated = False
        while not (terminated or truncated):
            action = self.act(observation, not successes)
            rows["action"].append(np.array(action))
            if chance.random() < noise:
                action = self.env.action_space.sample()
            observation, reward, terminated, truncated, info = self.env.step(action)
            rows["reward"].append(reward)
            successes.append(info.get("is_success"))
            self._note(rows, observation)
        arrays = {}
        for field in self.fields:
            array = np.array(rows[field.key])
            try:
                field.check_header(array.shape, array.dtype)
                arrays[field.key] = field.convert(array)
            except DataError as error:
                raise DataError(f"Episode {index}, played with seed {seed}: {error}") from None
        return Recording(arrays, successes, terminated)

    def _note(self, rows: dict[str, list[Any]], observation: Any) -> None:
        """Append a copy of an observation, which the environment may change."""
        for key in self.observed:
            value = observation[key] if isinstance(self.env.observation_space, spaces.Dict) else observation
            rows[key].append(np.array(value))


def make_act(expert: Expert, env: gymnasium.Env) -> Act:
    """
    A function from an observation, and whether it is an episode's first, to an action.

    :param expert: See :func:`record`.
    :param env: Where it acts.
    :raises ValueError: If it is no expert, or the environment has no oracle.
    """
    if expert == "oracle":
        if not env.has_wrapper_attr("oracle_action"):
            raise ValueError(f"`expert='oracle'` needs an environment with `oracle_action()`. Received {env}.")
        oracle = env.get_wrapper_attr("oracle_action")
        return lambda observation, start: oracle()
    if expert == "random":
        return lambda observation, start: env.action_space.sample()
    if isinstance(expert, str | Path) and Path(expert).is_file():
        try:
            expert = RecurrentPPO.load(expert)
        except AttributeError as error:  # a policy without recurrent state lacks what the host asks it for
            raise ValueError(f"`expert` must be the file of a RecurrentPPO. Load '{expert}' and pass the model.") from error
    if hasattr(expert, "predict"):
        return _follow(expert, env.action_space)
    if callable(expert):
        return lambda observation, start: expert(observation)
    raise ValueError(
        "`expert` must be 'oracle', 'random', the file of a saved model, an object with `predict` or a function. "
        f"Received {expert!r}."
    )


def _follow(model: Model, action_space: spaces.Space) -> Act:
    """The deterministic actions of a model, which keeps its state within an episode."""
    state = None

    def act(observation: Any, start: bool) -> Any:
        nonlocal state
        given = None if start else state
        action, state = model.predict(observation, state=given, episode_start=np.array([start]), deterministic=True)
        return np.asarray(action).astype(action_space.dtype)[()]

    return act


def write_npz(recorder: Recorder, output: Path, n_episodes: int, settings: dict[str, Any], progress_bar: bool) -> None:
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
    for index in _progress([index for index, path in enumerate(paths) if not path.exists()], n_episodes, progress_bar):
        arrays, successes, _ = recorder.play(index)
        steps = len(successes)
        arrays = {key: array[:steps] for key, array in arrays.items()}
        if any(success is not None for success in successes):
            arrays["success"] = np.array([bool(success) for success in successes], dtype=np.int64)
        arrays["done"] = (np.arange(steps) == steps - 1).astype(np.int64)
        with atomic_path(paths[index]) as path, zipfile.ZipFile(path, "w") as archive:
            for key, array in arrays.items():  # as `np.savez`, which reserves some keys
                with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def write_minari(recorder: Recorder, output: Path, n_episodes: int, settings: dict[str, Any], progress_bar: bool) -> None:
    """
    Write a Minari data set, lossless images included, which appears when it is complete.

    :param recorder: Plays the episodes.
    :param output: Its folder, named as the data set.
    :param n_episodes: Number of episodes.
    :param settings: How they are made, for ``recording.json``.
    :param progress_bar: Whether to show one.
    :raises ValueError: If ``output`` is there already or is not named as Minari demands.
    :raises DependencyNotInstalled: Without Minari.
    """
    minari = import_minari()
    name = output.name
    if not re.fullmatch(r"[-\w]+-v\d+", name):
        raise ValueError(f"`output` must end in a name of letters, digits, - and _, such as tmaze-v0. Received {name!r}.")
    if output.exists():
        raise ValueError(f"`output` must not exist: a Minari data set is recorded in one go. Received '{output}'.")
    output.parent.mkdir(parents=True, exist_ok=True)

    def buffer(index: int) -> Any:
        arrays, successes, terminated = recorder.play(index)
        last = np.arange(len(successes)) == len(successes) - 1
        is_dict = isinstance(recorder.env.observation_space, spaces.Dict)
        return minari.data_collector.EpisodeBuffer(
            seed=recorder.seed + index,
            observations={key: arrays[key] for key in recorder.observed} if is_dict else arrays["observation"],
            actions=arrays["action"],
            rewards=arrays["reward"],
            terminations=last & terminated,
            truncations=last & (not terminated),
        )

    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=output.parent) as root, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="minari")  # asks for the author's address, among others
        with _environment_variable("MINARI_DATASETS_PATH", root):
            minari.create_dataset_from_buffers(
                name,
                (buffer(index) for index in _progress(range(n_episodes), n_episodes, progress_bar)),
                env=recorder.env,
                algorithm_name=settings["expert"],
                jpeg_encoding=False,
            )
        (Path(root) / name / SETTINGS).write_text(_to_json(settings))
        os.replace(Path(root) / name, output)


WRITERS: dict[str, Callable[[Recorder, Path, int, dict[str, Any], bool], None]] = {"npz": write_npz, "minari": write_minari}


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Note the settings in a folder without episodes, or demand that they are those noted there, versions aside."""
    path = folder / SETTINGS
    if not path.exists():
        if any(folder.glob("*.npz")):
            raise ValueError(f"`output` must hold no episodes but recorded ones. Received '{folder}', without {SETTINGS}.")
        with atomic_path(path) as temporary:
            temporary.write_text(_to_json(settings))
        return
    noted = {"noise": 0.0} | json.loads(path.read_text())
    for name, value in settings.items():
        if name != "versions" and noted.get(name) != value:
            raise ValueError(
                f"`output` must be recorded with one `{name}`: '{path}' has {noted.get(name)!r}. Received {value!r}."
            )


def _to_json(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2) + "\n"


def _describe_expert(expert: Expert) -> str:
    """What tells experts apart: a file's contents, or the name of a class or function."""
    if not isinstance(expert, str | Path):
        return _name(expert)
    path = Path(expert)
    return f"{path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else str(expert)


def _name(thing: object) -> str:
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


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


def main(arguments: Sequence[str] | None = None) -> None:
    """
    The command line.

    :param arguments: Its words; ``None`` means those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="sb3-elmur record",
        allow_abbrev=False,
        description="Record an expert into a data set for behaviour cloning. An interrupted recording of .npz files goes on "
        "where it stopped when the same command is given again.",
        epilog="example: python -m sb3_elmur.recording --env TMazePassive30-v0 --expert oracle --episodes 2000 "
        "--output data/tmaze30 --env-kwargs corridor_length:'(1, 28)' reward:\"'eased'\"",
    )
    parser.add_argument("--env", required=True, help="id of a registered environment")
    parser.add_argument(
        "--expert", required=True, help="oracle (the environment's own), random, or the .zip file of a saved RecurrentPPO"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder to write; for Minari its name is the data set's id")
    parser.add_argument("--episodes", required=True, type=int, help="number of episodes")
    parser.add_argument("--seed", type=int, default=0, help="episode i is reset with seed + i (default: %(default)s)")
    parser.add_argument(
        "--env-kwargs",
        type=key_value,
        nargs="+",
        default=[],
        metavar="KEY:VALUE",
        help="arguments of the environment, as Python",
    )
    parser.add_argument(
        "--noise", type=float, nargs="+", default=[0.0], metavar="SHARE",
        help="share of steps at which a random action is played, while the expert's is recorded; of two, each episode draws "
        "its own between them (default: 0)",
    )  # fmt: skip
    parser.add_argument("--format", choices=WRITERS, default="npz", help="format to write (default: %(default)s)")
    parser.add_argument("--gym-packages", nargs="+", default=[], metavar="PACKAGE", help="imported to register environments")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    options = parser.parse_args(arguments)
    for package in options.gym_packages:
        import_module(package)
    try:
        record(
            options.env,
            options.expert,
            options.output,
            options.episodes,
            seed=options.seed,
            env_kwargs=dict(options.env_kwargs),
            format=options.format,
            progress_bar=not options.no_progress,
            noise=tuple(options.noise),
        )
    except (ValueError, TypeError, gymnasium.error.Error) as error:
        sys.exit(f"error: {error}")

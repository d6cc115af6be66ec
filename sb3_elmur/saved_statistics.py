"""
Statistics of normalisation that belong to a saved model by name: found, read and applied.

They are not trusted: of their pickle numbers alone are read, and no code that it names runs.
"""

import pickle
import re
import warnings
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_elmur.core.arguments import check_range

STATISTICS_FILE = "vecnormalize.pkl"
_UUID = r"_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"  # which `--uuid` of rl_zoo3 adds to the names of run folders
_SPACES = (spaces.Box, spaces.Dict, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
_NUMPY = {  # what arrays and numbers are pickled with, by NumPy 1 and 2
    *(("numpy.core.multiarray", name) for name in ("_reconstruct", "scalar")),
    *(("numpy._core.multiarray", name) for name in ("_reconstruct", "scalar")),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
}

_OF_STATISTICS = _NUMPY | {  # all that `VecNormalize.save` names, where observations and actions are of common spaces
    ("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize"),
    ("stable_baselines3.common.running_mean_std", "RunningMeanStd"),
    ("collections", "OrderedDict"),
    *((space.__module__, space.__name__) for space in _SPACES),
    *(("numpy.random._pickle", name) for name in ("__generator_ctor", "__bit_generator_ctor")),
    *(("numpy.random.bit_generator", name) for name in ("SeedSequence", "__pyx_unpickle_SeedSequence")),
    ("numpy.random._pcg64", "PCG64"),
}


def find_statistics(path: Path, model: BaseAlgorithm | None = None) -> Path | None:
    """
    The statistics by which observations were normalised, which belong to a model by name.

    They are ``<model>/vecnormalize.pkl``; for a checkpoint ``rl_model_<n>_steps.zip`` the file
    ``rl_model_vecnormalize_<n>_steps.pkl`` beside it; for the ``best_model.zip`` of rl_zoo3's run folder ``<name>_<n>`` also
    ``<name>/vecnormalize.pkl`` in it.

    :param path: The model's zip file.
    :param model: The model, if a warning is wanted where it seems to have been trained with statistics, and has none.
    :return: Their file, or ``None`` if there is none.
    """
    folder, name = path.absolute().parent, path.stem
    candidates = [path.with_suffix("") / STATISTICS_FILE]
    if checkpoint := re.fullmatch(r"(.+)_(\d+)_steps", name):
        candidates.append(path.with_name("{}_vecnormalize_{}_steps.pkl".format(*checkpoint.groups())))
    if name == "best_model" and (run := re.match(r"(.+)_\d+", re.sub(_UUID, "", folder.name))):
        candidates.append(path.parent / run[1] / STATISTICS_FILE)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    beside = any(folder.glob(f"*/{STATISTICS_FILE}")) or any(folder.glob("*vecnormalize*.pkl"))
    if model is not None and (beside or saw_normalized(model)):
        why = "Statistics under other names belong to other models." if beside else "It was trained in a VecNormalize."
        warnings.warn(
            f"{path} sees observations as they are: there is no {' and no '.join(map(str, candidates))}. {why}", stacklevel=2
        )
    return None


def saw_normalized(model: BaseAlgorithm) -> bool:
    """Whether a model says that it was built for, or learned in, environments whose observations were normalised."""
    return getattr(model, "normalized", False) or getattr(model, "_last_original_obs", None) is not None


def as_in_training(env: VecEnv, statistics: Path | None) -> VecEnv:
    """
    Show environments as a saved model was shown its own: normalised, and then images with their channels first.

    :param env: The environments, as they are.
    :param statistics: What :func:`find_statistics` found.
    :return: The wrapped environments.
    :raises ValueError: If the statistics are damaged, or of other observations.
    """
    return BaseAlgorithm._wrap_env(env if statistics is None else normalized(env, statistics))


def normalized(env: VecEnv, statistics: Path) -> VecNormalize:
    """
    Wrap environments in a ``VecNormalize`` with saved statistics of observations. It learns nothing, and leaves rewards alone.

    :param env: The environments, as they are.
    :param statistics: A file that ``VecNormalize.save`` wrote.
    :return: The wrapped environments.
    :raises ValueError: If the file is damaged, or its statistics are of other observations.
    """
    saved = _load(statistics)[0].state
    try:
        keys, norm_obs = saved["norm_obs_keys"], saved["norm_obs"]
        for name in ("epsilon", "clip_obs"):
            check_range(name, saved[name], 0.0, float("inf"))
        wrapped = VecNormalize(
            env, training=False, norm_obs=norm_obs is True, norm_reward=False, norm_obs_keys=keys,
            clip_obs=float(saved["clip_obs"]), epsilon=float(saved["epsilon"]),
        )  # fmt: skip
        if wrapped.norm_obs:
            whole: Any = wrapped.obs_rms
            if isinstance(whole, dict):
                if not isinstance(saved["obs_rms"], dict) or saved["obs_rms"].keys() != whole.keys():
                    raise ValueError(f"They must be of the parts {', '.join(whole)}.")
                for key, rms in whole.items():
                    _set_moments(rms, saved["obs_rms"][key], key)
            else:
                _set_moments(whole, saved["obs_rms"], "observation")
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        raise ValueError(f"{statistics} must be of the environment's observations: {error}") from error
    return wrapped


def check_statistics(path: Path) -> None:
    """
    Make sure that ``VecNormalize.load`` of a file runs no code that the file brings.

    :param path: A file that ``VecNormalize.save`` wrote.
    :raises ValueError: If it is damaged, or names anything but statistics, arrays and spaces.
    """
    unpickler = _load(path)[1]
    if foreign := sorted(unpickler.names - _OF_STATISTICS):
        names = ", ".join(f"{module}.{name}" for module, name in foreign)
        raise ValueError(f"{path} must hold the statistics of a VecNormalize alone. It names {names}.")


def _set_moments(rms: RunningMeanStd, saved: Any, name: str) -> None:
    """Set mean and variance to saved ones of the same shape."""
    moments: dict[str, Any] = saved.state if isinstance(saved, _Inert) and isinstance(saved.state, dict) else {}
    for moment in ("mean", "var"):
        value: Any = moments.get(moment)
        shape = np.shape(getattr(rms, moment))
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.shape != shape:
            raise ValueError(f"`{name}` must have a {moment} of shape {shape}. Received {np.shape(value)}.")
        if not np.isfinite(value).all() or (moment == "var" and (value < 0).any()):
            raise ValueError(f"`{name}` has a {moment} that is none.")
        setattr(rms, moment, value)


class _Inert:
    """What an object of any class but NumPy's becomes: its state is kept, and nothing of its class is imported or run."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Items of lists and sets are not needed."""

    add = extend = append


_ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")  # of bytes


class _NumbersUnpickler(pickle._Unpickler):  # C's takes memory as a damaged file says
    """Makes arrays and built-in values, and nothing else; it notes what classes and functions a file names."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.names: set[tuple[str, str]] = set()

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        self.names.add((module_name, global_name))
        if (module_name, global_name) in _NUMPY:
            return super().find_class(module_name, global_name)
        return type(global_name, (_Inert,), {})

    def load_build(self) -> None:
        """Set an object's state, of NumPy's types only the one that they have: they take any, and another crashes later."""
        instance, state = self.stack[-2:]  # type: ignore[attr-defined]
        if isinstance(instance, np.dtype) and state not in [instance.newbyteorder(order).__reduce__()[2] for order in _ORDERS]:
            raise ValueError(f"The state of {instance} must be its own. Received {state!r}.")
        super().load_build()  # type: ignore[misc]

    dispatch = pickle._Unpickler.dispatch | {pickle.BUILD[0]: load_build}  # type: ignore[assignment]


def _load(path: Path) -> tuple[Any, _NumbersUnpickler]:
    """What a pickle holds, without any code of the file, and what has read it."""
    with path.open("rb") as file:
        unpickler = _NumbersUnpickler(file)
        try:
            saved = unpickler.load()
        except Exception as error:  # there is no end to what a damaged pickle may raise
            raise ValueError(f"{path} does not hold statistics of a VecNormalize: {error!r}") from error
    if type(saved).__name__ != "VecNormalize" or not isinstance(saved.state, dict):
        raise ValueError(f"{path} does not hold statistics of a VecNormalize.")
    return saved, unpickler

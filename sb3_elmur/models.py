"""
Saved models: how to load one, the statistics of normalisation that belong to it, and another number of memory slots.

The zip file of a model is Stable-Baselines3's: loading it unpickles objects, so that it is as trusted as a program. The
statistics beside it are not trusted: of their pickle numbers alone are read, and no code that it names runs.
"""

import copy
import pickle
import re
import warnings
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO as HostRecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from sb3_elmur.core.arguments import check_count, check_range
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.ppo import RecurrentPPO

STATISTICS_FILE = "vecnormalize.pkl"
_SEED = 0  # of the slots that are added
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


def load_model(path: Path, device: str = "auto") -> HostRecurrentPPO:
    """
    A saved model of :class:`sb3_elmur.RecurrentPPO`, or of sb3-contrib's with a policy of its own.

    :param path: The zip file.
    :param device: Where to put it.
    :return: The model.
    :raises OSError: If there is no such file.
    :raises ValueError: If the file is something else.
    """
    if not path.is_file():
        kind = "a folder; give the .zip file in it" if path.is_dir() else "no file"
        raise FileNotFoundError(f"`model` must be the zip file of a saved model. Received '{path}', which is {kind}.")
    try:
        return RecurrentPPO.load(path, device=device)
    except Exception as error:  # there is no end to what unpickling and building a foreign model may raise
        refusal = ValueError(f"{path} is not a model of sb3_elmur.RecurrentPPO: {error!r}")
        try:
            model = HostRecurrentPPO.load(path, device=device)
        except Exception:
            raise refusal from error
        if isinstance(model.policy, ElmurPolicy):  # ours refuses it for what it is, not for its class
            raise refusal from error
        return model


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
    if model is not None and (beside or getattr(model, "_last_original_obs", None) is not None):
        why = "There are statistics of other models beside it." if beside else "It was trained in a VecNormalize."
        warnings.warn(
            f"{path} sees observations as they are: there is no {' and no '.join(map(str, candidates))}. {why}", stacklevel=2
        )
    return None


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


def resize_memory(model: RecurrentPPO, memory_size: int) -> RecurrentPPO:
    """
    Copy a model, with another number of slots per layer: no weight but the initial slot vectors depends on it.

    The first of them are kept; further ones are drawn as the policy draws them, always the same. The copy has a new optimiser
    state, shares environment and logger, and begins new episodes when it learns.

    :param model: Left as it is.
    :param memory_size: Slots per layer of the copy, at least 1.
    :raises ValueError: If ``memory_size`` is no positive integer, or the policy has no slots.
    """
    check_count("memory_size", memory_size, 1)
    config = model.policy.config
    if not isinstance(model.policy.backbone.core, Elmur) or config.memory_size == 0:
        received = f"core={config.core_name!r}, memory_size={config.memory_size}"
        raise ValueError(f"`model` must have memory slots. Received {received}.")
    state = model.policy.state_dict()
    for name, slots in state.items():
        if name.endswith("initial_slots"):
            state[name] = _resize(slots, memory_size, config.memory_init_std)
    resized = copy.copy(model)
    resized.policy_kwargs = {**model.policy_kwargs, "memory_size": memory_size}
    resized.return_rms, resized.average, resized.state = copy.deepcopy(model.return_rms), None, None
    resized._last_obs = resized.ep_info_buffer = resized.ep_success_buffer = None
    resized.seed = None  # which would seed environment and global generators again
    resized._setup_model()
    resized.seed = model.seed
    resized.policy.load_state_dict(state)
    for new, old in zip(resized.policy.parameters(), model.policy.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    return resized


def _resize(slots: Tensor, memory_size: int, std: float) -> Tensor:
    """(N, M, D) to (N, ``memory_size``, D)."""
    n_layers, old_size, d_model = slots.shape
    generator = th.Generator().manual_seed(_SEED)
    added = std * th.randn(n_layers, max(0, memory_size - old_size), d_model, generator=generator)
    return th.cat((slots[:, :memory_size], added.to(slots)), dim=1)

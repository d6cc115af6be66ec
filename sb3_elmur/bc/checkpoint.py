"""Checkpoints of behaviour cloning: whose they are, and how one is read that may be damaged, or another run's."""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from torch.optim import AdamW

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.datasets.episodes import Episodes
from sb3_elmur.datasets.fields import MASK
from sb3_elmur.ppo import RecurrentPPO
from sb3_elmur.spaces import as_dict

CHECKPOINT = "checkpoint.pt"
Identity = dict[str, Any]


def identity(model: RecurrentPPO, config: BCConfig, episodes: Episodes) -> Identity:
    """
    What two runs must have in common for one to continue the other.

    :param model: What is trained.
    :param config: Hyper-parameters.
    :param episodes: The data set, which is read once.
    :return: Plain values by name.
    """
    policy = model.policy
    settings = {"policy": type(policy), **model.policy_kwargs, **asdict(config), **asdict(policy.config)}
    return {
        **_plain(settings),
        "use_sde": model.use_sde,
        "observation_space": str(policy.observation_space),
        "action_space": str(policy.action_space),
        "seed": 0 if model.seed is None else model.seed,
        "episodes": len(episodes),
        "steps": int(episodes.lengths.sum()),
        "data": fingerprint(episodes),
    }


def _plain(value: Any) -> Any:
    """A value as numbers and texts, which a checkpoint can hold without pickles of classes."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def fingerprint(episodes: Episodes) -> str:
    """
    A digest of all steps of a data set.

    :param episodes: The data set, which is read once.
    :return: 16 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=8)
    for index in range(len(episodes)):
        episode = episodes[index]
        parts = as_dict(episode.observations) | ({} if episode.action_masks is None else {MASK: episode.action_masks})
        for name, array in (*sorted(parts.items()), ("action", episode.actions), ("reward", episode.rewards)):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def write_checkpoint(path: Path, run: Identity, state: Mapping[str, Any]) -> None:
    """
    Write a checkpoint, whole or not at all.

    :param path: The file.
    :param run: Of :func:`identity`.
    :param state: What is restored from it.
    """
    with atomic_path(path) as temporary:
        th.save({"run": run, **state}, temporary)


def read_checkpoint(path: Path, run: Identity) -> dict[str, Any]:
    """
    Read a checkpoint. Nothing is unpickled but tensors and plain values.

    :param path: The file.
    :param run: Of :func:`identity`.
    :return: The state that :func:`write_checkpoint` was given.
    :raises ValueError: If the file is damaged, foreign, or of another run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{damaged} is damaged")
        state = dict(th.load(path, map_location="cpu", weights_only=True))
        stored = dict(state.pop("run"))
    except Exception as error:  # whatever torch, zipfile and pickle make of damaged and foreign files
        raise no_checkpoint(path, error) from error
    different = [f"{name}={stored.get(name)!r}" for name in {**run, **stored} if stored.get(name) != run.get(name)]
    if different:
        raise ValueError(
            f"{path} is the checkpoint of a run with {', '.join(different)}. Continue with the same, or in another folder."
        )
    return state


def check_optimizer(optimizer: AdamW, state: Mapping[str, Any], begun: bool) -> None:
    """
    Refuse a state that PyTorch would take as it is, whatever its shapes are and whose it was.

    :param optimizer: Whose state it is to become.
    :param state: Of ``state_dict``.
    :param begun: Whether it has made a step.
    :raises ValueError: If it is of another optimiser.
    """
    own = optimizer.state_dict()
    for mine, theirs in zip(own["param_groups"], state["param_groups"], strict=True):
        for name in ("betas", "eps", "weight_decay", "amsgrad", "maximize", "params"):
            if theirs[name] != mine[name]:
                raise ValueError(f"`{name}` of the optimiser was {theirs[name]!r:.80}, not {mine[name]!r:.80}.")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if set(state["state"]) != set(range(len(parameters) if begun else 0)):
        raise ValueError("The optimiser was one of other parameters.")
    for index, moments in state["state"].items():
        shape = parameters[index].shape
        if {name: moment.shape for name, moment in moments.items()} != {"step": (), "exp_avg": shape, "exp_avg_sq": shape}:
            raise ValueError("The optimiser was one of other parameters.")


def no_checkpoint(path: Path, error: Exception) -> ValueError:
    """
    The error of a file that cannot be restored.

    :param path: The file.
    :param error: What went wrong.
    :return: An error of one line.
    """
    return ValueError(
        f"{path} is not a checkpoint of this policy. {type(error).__name__}: {' '.join(str(error).split()):.200}"
    )

"""Saved models: how to load one, what lies beside it, and how it runs with another number of memory slots."""

import copy
from pathlib import Path

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from sb3_elmur.core.config import check_count
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.ppo import RecurrentPPO

STATISTICS_FILE = "vecnormalize.pkl"
_SEED = 0  # of the slots that are added


def resize_memory(model: RecurrentPPO, memory_size: int) -> RecurrentPPO:
    """
    Copy a model, with another number of slots per layer: no weight but the initial slot vectors depends on it.

    The first of them are kept; further ones are drawn as the policy draws them, always the same. The copy has a new optimiser
    state, and shares environment and logger.

    :param model: Left as it is.
    :param memory_size: Slots per layer of the copy, at least 1.
    :raises ValueError: If ``memory_size`` is no positive integer, or the policy has no slots.
    """
    check_count("memory_size", memory_size, 1)
    config = model.policy.config
    if config.core != "elmur" or config.memory_size == 0:
        raise ValueError(f"`model` must have memory slots. Received core={config.core!r}, memory_size={config.memory_size}.")
    state = model.policy.state_dict()
    for name, slots in state.items():
        if name.endswith("initial_slots"):
            state[name] = _resize(slots, memory_size, config.memory_init_std)
    resized = copy.copy(model)
    resized.policy_kwargs = {**model.policy_kwargs, "memory_size": memory_size}
    resized._setup_model()
    resized.policy.load_state_dict(state)
    return resized


def _resize(slots: Tensor, memory_size: int, std: float) -> Tensor:
    """(N, M, D) to (N, ``memory_size``, D)."""
    n_layers, old_size, d_model = slots.shape
    generator = th.Generator().manual_seed(_SEED)
    added = std * th.randn(n_layers, max(0, memory_size - old_size), d_model, generator=generator)
    return th.cat((slots[:, :memory_size], added.to(slots)), dim=1)


def load_policy(path: Path, device: str) -> ElmurPolicy:
    """
    The policy of a saved model.

    :param path: The zip file.
    :param device: Where to put it.
    :raises ValueError: If the file is something else.
    """
    try:
        return RecurrentPPO.load(path, device=device).policy
    except Exception as error:  # there is no end to what unpickling and building a foreign model may raise
        raise ValueError(f"{path} is not a model of sb3_elmur.RecurrentPPO: {error!r}") from error


def as_in_training(env: VecEnv, statistics: Path | None) -> VecEnv:
    """
    Show environments as a saved model was shown its own: normalised, and then images with their channels first.

    :param env: The environments, as they are.
    :param statistics: What :func:`find_normalization` found.
    :raises ValueError: If the statistics are of other observations.
    """
    if statistics is not None:
        try:
            env = VecNormalize.load(str(statistics), env)
        except AssertionError as error:
            raise ValueError(f"{statistics} must be of the environment's observations: {error}") from error
        env.training = env.norm_reward = False
    return BaseAlgorithm._wrap_env(env)


def find_normalization(model: Path) -> Path | None:
    """
    Where the statistics of a saved model lie, if it has any: in the folder of its own name, or in the only one beside it.

    :param model: The zip file, in a run folder such as those of rl_zoo3.
    :raises ValueError: If there are several that could be meant.
    """
    own = model.with_suffix("") / STATISTICS_FILE
    if own.is_file():
        return own
    beside = sorted(model.parent.glob(f"*/{STATISTICS_FILE}"))
    if len(beside) > 1:
        raise ValueError(
            f"The statistics of {model} must lie in {own}, or beside it alone. Found {', '.join(map(str, beside))}."
        )
    return beside[0] if beside else None

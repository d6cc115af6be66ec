"""Running a trained model with another number of memory slots."""

import copy

import torch as th
from torch import Tensor

from sb3_elmur.config import check_count
from sb3_elmur.ppo import RecurrentPPO

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

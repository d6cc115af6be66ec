"""
Saved models: how to load one, and another number of memory slots.

The zip file of a model is Stable-Baselines3's: loading it unpickles objects, so that it is as trusted as a program.
"""

import copy
from pathlib import Path

import torch as th
from sb3_contrib import RecurrentPPO as HostRecurrentPPO
from torch import Tensor

from sb3_elmur.core.arguments import check_count
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.ppo import RecurrentPPO

_SEED = 0  # of the slots that are added


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


def resize_memory(model: RecurrentPPO, memory_size: int) -> RecurrentPPO:
    """
    Copy a model, with another number of slots per layer: no weight but the initial slot vectors depends on it.

    The first of them are kept; further ones are drawn as the policy draws them, always the same. The copy has a new optimiser
    state, and shares environment and logger: both models begin new episodes when they learn.

    :param model: Keeps its weights and its slots.
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
    model._last_obs = resized._last_obs = resized.ep_info_buffer = resized.ep_success_buffer = None
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

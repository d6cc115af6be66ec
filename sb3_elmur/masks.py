"""
Action masks, by the conventions of sb3-contrib's ``MaskablePPO`` (arXiv 2006.14171).

An environment with a method ``action_masks()`` says which choices are valid in its present state. A mask has a flag for each
choice of each entry of an action, one after another: n of ``Discrete(n)``, the sum of ``nvec`` of ``MultiDiscrete``, and two,
for 0 and for 1, of each entry of ``MultiBinary``. It is true where the choice is valid.
"""

from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import MaskableDistribution, make_masked_proba_distribution
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_elmur.spaces import choices, first_choices, shifts, to_space

__all__ = ["check_masks", "get_action_masks", "has_masks", "masked_distribution", "sample_valid"]


def has_masks(env: gymnasium.Env | VecEnv) -> bool:
    """
    Tell whether an environment says which actions are valid.

    :param env: A single environment, or several.
    :return: Whether it has the method ``action_masks`` and an action space that can be masked.
    """
    return choices(env.action_space) is not None and is_masking_supported(env)


def check_masks(action_masks: Any, action_space: spaces.Space, n_envs: int) -> np.ndarray | None:
    """
    Check masks, of which each must leave a choice.

    :param action_masks: (B, n), or (n,) of one environment; ``None`` where all choices are valid.
    :param action_space: Of the actions.
    :param n_envs: B.
    :return: (B, n) bool, or ``None``.
    :raises ValueError: If they do not fit the space or the number of environments, or leave no choice.
    """
    if action_masks is None:
        return None
    sizes = choices(action_space)
    if sizes is None:
        raise ValueError(f"`action_masks` are for Discrete, MultiDiscrete and MultiBinary actions. Received {action_space}.")
    masks = np.asarray(action_masks.cpu() if isinstance(action_masks, Tensor) else action_masks)
    if masks.size != n_envs * sum(sizes) or (masks.ndim > 1 and len(masks) != n_envs):
        raise ValueError(f"`action_masks` must have the shape ({n_envs}, {sum(sizes)}). Received {masks.shape}.")
    masks = masks.reshape(n_envs, -1).astype(bool)
    choosable = np.logical_or.reduceat(masks, first_choices(sizes), axis=1)  # (B, entries)
    if not choosable.all():
        row, entry = (int(i) for i in np.argwhere(~choosable)[0])
        raise ValueError(f"`action_masks` must leave a choice. Received none for entry {entry} of the action in row {row}.")
    return masks


def check_no_state_lost(episode_start: np.ndarray | None) -> None:
    """
    Refuse to act with masks, in the middle of episodes, without a recurrent state.

    :param episode_start: Flags given to ``predict`` without a state, or ``None``.
    :raises ValueError: If there is a state, which was not given back.
    """
    if episode_start is not None and not np.all(episode_start):
        raise ValueError(
            "`state` must be what the last call returned, where no episode begins. Received None. What evaluates in "
            "sb3_contrib.common.maskable loses it: use `sb3_elmur.MaskableEvalCallback`, and Stable-Baselines3's "
            "`evaluate_policy` within `model.masked_by(env)`."
        )


def masked_distribution(
    action_space: spaces.Space, outputs: Tensor, action_masks: np.ndarray | Tensor
) -> MaskableDistribution:
    """
    sb3-contrib's masked distribution, for a network whose outputs are those of Stable-Baselines3's distribution.

    :param action_space: Discrete, MultiDiscrete or MultiBinary.
    :param outputs: Of the action network, (B, n_outputs).
    :param action_masks: (B, n) bool.
    :return: The distribution over valid actions, counted from 0.
    """
    if isinstance(action_space, spaces.MultiBinary):  # a Bernoulli's logit is that of 1 against 0
        outputs = th.stack((th.zeros_like(outputs), outputs), dim=2).flatten(1)  # (B, n) -> (B, 2 n)
    distribution: Any = make_masked_proba_distribution(action_space)
    distribution.proba_distribution(action_logits=outputs)
    distribution.apply_masking(action_masks)
    return distribution


def sample_valid(action_space: spaces.Space, action_mask: np.ndarray) -> Any:
    """
    Draw an action from the valid ones, by PyTorch's global generator.

    :param action_space: Discrete, MultiDiscrete or MultiBinary.
    :param action_mask: (n,).
    :return: An element of the space.
    """
    masks = check_masks(action_mask, action_space, 1)
    assert masks is not None
    n_outputs = masks.shape[1] // 2 if isinstance(action_space, spaces.MultiBinary) else masks.shape[1]
    drawn = masked_distribution(action_space, th.zeros(1, n_outputs), masks).sample()
    return to_space(drawn, shifts(action_space))[0].numpy().astype(action_space.dtype)[()]

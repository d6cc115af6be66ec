"""How far an update may take the policy, measured on whole episodes, so that what happens to memory counts too."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor, nn
from torch.optim import Optimizer

from sb3_elmur.distributed import ALONE, Group, current_group
from sb3_elmur.policies import ElmurPolicy

DEFAULT_SIZE = 0.1  # nats, or in units of a smaller entropy
GROWTH = 1.5  # of the share of the learning rate, after an update that stayed inside
MOST_HALVINGS = 14  # after which nothing is left of an update
SMALLEST = 2.0**-MOST_HALVINGS  # share of the learning rate, from which it can grow again
UNLIKE = (
    "Replayed with the weights that collected them, episodes differ from the rollout by {kl:.2g} nats per step, more than "
    "`trust_region` allows ({limit:.2g}): the update was taken back. What is random in the policy while it does not train?"
)
AT_ONCE = 2  # minibatches replayed together: without gradients they take less memory than one of training, with images, too


def weights_of(*modules: nn.Module) -> list[Tensor]:
    """Parameters and buffers, such as running means, of some modules; integers cannot be set back halfway and are left out."""
    weights = [weight for module in modules for weight in (*module.parameters(), *module.buffers())]
    return [weight for weight in weights if weight.is_floating_point()]


def critic_weights(policy: ElmurPolicy) -> list[Tensor]:
    """
    Collect what the critic has for itself: changing it changes no action.

    :param policy: The policy.
    :return: Its :func:`weights_of`.
    """
    modules: list[nn.Module] = [policy.value_net, policy.mlp_extractor.value_net]
    if policy.critic_backbone is not None:
        modules.append(policy.critic_backbone)
    if not policy.share_features_extractor:
        modules.append(policy.vf_features_extractor)
    return weights_of(*modules)


def rollout_kl(model: Any) -> float:
    """
    KL divergence of the policy from the one that collected the rollout, in nats per step.

    Episodes are replayed with the memory that the present weights write. PPO's ratios, ``approx_kl`` and ``target_kl``
    begin every chain with the memory that the old weights wrote, and are blind to what an update does across its border.

    :param model: A :class:`sb3_elmur.RecurrentPPO` whose rollout buffer is full.
    :return: The mean of ``(r - 1) - log r`` over the actions taken; r is the ratio of the new to the old probability.
    """
    total, steps = 0.0, 0
    model.policy.set_training_mode(False)
    for data in model.rollout_buffer.get_episodes(model.batch_size, AT_ONCE):
        actions = data.actions.long().flatten() if isinstance(model.action_space, spaces.Discrete) else data.actions
        with th.no_grad():
            _, log_prob, _ = model.policy.evaluate_actions(
                data.observations,
                actions,
                data.lstm_states,
                data.episode_starts,
            )
        log_ratio = (log_prob - data.old_log_prob).double()
        total += (log_ratio.expm1() - log_ratio).sum().item()
        steps += len(log_ratio)
    return total / steps


def kl_limit(model: Any, size: float, group: Group = ALONE) -> float:
    """
    How far an update may take the policy.

    :param model: A :class:`sb3_elmur.RecurrentPPO` whose rollout buffer is full.
    :param size: Of the trust region.
    :param group: Processes whose rollouts count, and which call this together.
    :return: Nats per step: ``size``, or, where actions are discrete and the policy is surer than one nat, ``size`` times
        its entropy in the rollout.
    """
    entropy = -group.mean(float(np.mean(model.rollout_buffer.log_probs)))
    return size if isinstance(model.action_space, spaces.Box) else size * min(1.0, entropy)


@contextmanager
def training_within(model: Any, size: float) -> Iterator[None]:
    """
    Around an update: takes back what leads too far, and has the next one take smaller steps.

    Where the policy stands at a threshold, or was cloned and has a critic that knows nothing yet, a few of Adam's steps ruin
    it, and it cannot learn from its own actions what it has lost. So an update that goes further than :func:`kl_limit` has
    the weights that decide on actions set back half of the way, again and again, until it does not. Their learning rate
    shrinks by as much, and grows again with every update that stays inside. What the critic has for itself learns
    undisturbed. Processes that train together measure on the rollouts of all, and so take back alike.

    :param model: A :class:`sb3_elmur.RecurrentPPO` whose rollout buffer is full. Its ``step_size`` is the share of the
        learning rate for what acts.
    :param size: Of the trust region.
    """
    policy, limit = model.policy, kl_limit(model, size, current_group())
    critic = {id(weight) for weight in critic_weights(policy)}
    acting = [weight for weight in weights_of(policy) if id(weight) not in critic]
    before = [weight.detach().clone() for weight in acting]
    with _slowed(policy.optimizer, critic, model.step_size):
        yield
    _take_back(model, acting, before, limit)


@contextmanager
def _slowed(optimizer: Optimizer, critic: set[int], share: float) -> Iterator[None]:
    """Splits each group of an optimizer: what is not the critic's alone has this share of the learning rate."""
    all_options = optimizer.param_groups
    optimizer.param_groups = [
        {**options, "params": [parameter for parameter in options["params"] if (id(parameter) in critic) == is_critic],
         "share": 1.0 if is_critic else share}
        for options in all_options
        for is_critic in (False, True)
    ]  # fmt: skip
    try:
        yield
    finally:
        for options, for_critic in zip(all_options, optimizer.param_groups[1::2], strict=True):
            options |= {key: value for key, value in for_critic.items() if key not in ("params", "share")}
        optimizer.param_groups = all_options


def _take_back(model: Any, acting: Sequence[Tensor], before: Sequence[Tensor], limit: float) -> None:
    """Sets weights back towards what they were until the policy is within the limit, and chooses the next step size."""
    group = current_group()
    kl, halvings = group.mean(rollout_kl(model)), 0
    model.logger.record("train/rollout_kl", kl)
    while kl > limit and halvings < MOST_HALVINGS:
        halvings += 1
        with th.no_grad():
            for weight, old in zip(acting, before, strict=True):
                weight.copy_(old if halvings == MOST_HALVINGS else old.lerp(weight, 0.5))
        kl = group.mean(rollout_kl(model))
    if kl > limit:  # with the weights that collected the rollout, too
        warnings.warn(UNLIKE.format(kl=kl, limit=limit), stacklevel=1)
    else:
        model.step_size = max(model.step_size / 2**halvings, SMALLEST) if halvings else min(1.0, GROWTH * model.step_size)
    model.logger.record("train/kl_limit", limit)
    model.logger.record("train/step_size", model.step_size)

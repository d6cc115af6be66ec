"""What behaviour cloning minimises, for each kind of action space."""

from typing import Any, Protocol

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Tensor
from torch.nn import functional as F

from sb3_elmur.masks import masked_distribution
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.spaces import choices

SMALLEST_STD = 0.05  # of a cloned Gaussian policy, so that online training can still explore


class CloningLoss(Protocol):
    """
    Loss of the action network's outputs (R, n_outputs) for recorded actions (R, ...), both of R real steps.

    Masks (R, n) say which choices were valid, ``None`` that all were. ``metric`` names what is logged beside the loss.
    """

    metric: str

    def loss(self, outputs: Tensor, actions: Tensor, masks: Tensor | None = None) -> Tensor:
        """Loss of each step, (R,)."""

    def measure(self, outputs: Tensor, actions: Tensor, masks: Tensor | None = None) -> Tensor:
        """The metric of each step, (R, m)."""


class DiscreteLoss:
    """
    Cross-entropy over valid choices, for Discrete and MultiDiscrete actions, whose entries' losses are summed.

    :param action_space: Of the actions.
    :param label_smoothing: Share of the target that is spread over all valid choices.
    """

    metric = "accuracy"

    def __init__(self, action_space: spaces.Space, label_smoothing: float) -> None:
        self.action_space, self.label_smoothing = action_space, label_smoothing
        self.sizes = choices(action_space) or []

    def loss(self, outputs: Tensor, actions: Tensor, masks: Tensor | None = None) -> Tensor:
        """Loss of each step, (R,)."""
        if masks is not None:
            return self._masked_loss(outputs, actions, masks)
        targets = actions.long().reshape(len(outputs), len(self.sizes)).unbind(1)
        losses = [
            F.cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing)
            for logits, target in zip(outputs.split(self.sizes, dim=1), targets, strict=True)
        ]
        return th.stack(losses).sum(0)

    def _masked_loss(self, outputs: Tensor, actions: Tensor, masks: Tensor) -> Tensor:
        distribution: Any = masked_distribution(self.action_space, outputs, masks)
        single = isinstance(self.action_space, spaces.Discrete)
        entries = [distribution.distribution] if single else distribution.distributions
        targets = actions.long().reshape(len(outputs), len(self.sizes)).unbind(1)
        losses = []
        for entry, target in zip(entries, targets, strict=True):
            log_probs = th.where(entry.masks, entry.logits, 0.0)  # (R, choices)
            recorded = log_probs.gather(1, target[:, None])[:, 0]
            spread = log_probs.sum(1) / entry.masks.sum(1)
            losses.append(-recorded.lerp(spread, self.label_smoothing))
        return th.stack(losses).sum(0)

    def measure(self, outputs: Tensor, actions: Tensor, masks: Tensor | None = None) -> Tensor:
        """Whether all entries of the most probable action are right, (R, 1)."""
        if masks is not None:
            chosen = masked_distribution(self.action_space, outputs, masks).mode().reshape(len(outputs), -1)
        else:
            chosen = th.stack([logits.argmax(1) for logits in outputs.split(self.sizes, dim=1)], dim=1)
        return (chosen == actions.reshape(chosen.shape)).all(1, keepdim=True).float()


class BinaryLoss(DiscreteLoss):
    """
    Binary cross-entropy, for MultiBinary actions, whose entries' losses are summed.

    :param action_space: Of the actions.
    :param label_smoothing: Share of the target that is spread over both values, if both are valid.
    """

    def loss(self, outputs: Tensor, actions: Tensor, masks: Tensor | None = None) -> Tensor:
        """Loss of each step, (R,)."""
        if masks is not None:
            return self._masked_loss(outputs, actions, masks)
        target = actions.reshape(outputs.shape).to(outputs.dtype)
        target = target.lerp(th.full_like(target, 0.5), self.label_smoothing)
        return F.binary_cross_entropy_with_logits(outputs, target, reduction="none").sum(1)

    def measure(self, outputs: Tensor, actions: Tensor, masks: Tensor | None = None) -> Tensor:
        """Whether all entries of the most probable action are right, (R, 1)."""
        if masks is not None:
            return super().measure(outputs, actions, masks)
        return ((outputs > 0) == actions.reshape(outputs.shape).bool()).all(1, keepdim=True).float()


class SquaredError:
    """
    Squared error of the mean action, averaged over its entries, for Box actions, which have no masks.

    :param squash: Whether the policy squashes its means by ``tanh``.
    """

    metric = "squared_error"

    def __init__(self, squash: bool) -> None:
        self.squash = squash

    def loss(self, outputs: Tensor, actions: Tensor, masks: Tensor | None = None) -> Tensor:
        """Loss of each step, (R,)."""
        return self.measure(outputs, actions).mean(1)

    def measure(self, outputs: Tensor, actions: Tensor, masks: Tensor | None = None) -> Tensor:
        """Squared errors of all entries, (R, n)."""
        means = outputs.tanh() if self.squash else outputs
        return (means - actions.reshape(outputs.shape)).square()


def make_cloning_loss(policy: ElmurPolicy, label_smoothing: float) -> CloningLoss:
    """
    The loss for the policy's action space.

    :param policy: What is trained.
    :param label_smoothing: For discrete actions.
    """
    space = policy.action_space
    if isinstance(space, spaces.Box):
        return SquaredError(policy.squash_output)
    return (BinaryLoss if isinstance(space, spaces.MultiBinary) else DiscreteLoss)(space, label_smoothing)


@th.no_grad()
def fit_log_std(policy: ElmurPolicy, squared_errors: Tensor, latent_square: Tensor) -> None:
    """
    Give a Gaussian policy the spread that its cloned means leave, the maximum-likelihood one, but at least 0.05.

    Squashed actions are measured after the tanh, before which their noise is added: where means are near a bound, the spread
    is too small.

    :param policy: With Box actions.
    :param squared_errors: Mean squared error of each entry of the action, (n,).
    :param latent_square: Mean squared length of the action network's input; gSDE's noise is proportional to its root.
    """
    std = squared_errors.sqrt().clamp(min=SMALLEST_STD)
    if isinstance(policy.action_dist, StateDependentNoiseDistribution):
        std = std / latent_square.sqrt()
        std = std if policy.action_dist.full_std else std.mean(0, keepdim=True)
    policy.log_std.copy_(std.log().expand_as(policy.log_std))

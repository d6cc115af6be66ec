"""What behaviour cloning minimises, for each kind of action space."""

from typing import Protocol

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Tensor
from torch.nn import functional as F

from sb3_elmur.policies import ElmurPolicy

SMALLEST_STD = 0.05  # of a cloned Gaussian policy, so that online training can still explore


class CloningLoss(Protocol):
    """
    Loss of the action network's outputs (R, n) for recorded actions (R, ...), both of R real steps.

    ``metric`` names what is logged beside it.
    """

    metric: str

    def loss(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Loss of each step, (R,)."""

    def measure(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """The metric of each step, (R, m)."""


class DiscreteLoss:
    """
    Cross-entropy, for Discrete and MultiDiscrete actions, whose entries' losses are summed.

    :param sizes: Number of choices of each entry.
    :param label_smoothing: Share of the target that is spread over all choices.
    """

    metric = "accuracy"

    def __init__(self, sizes: list[int], label_smoothing: float) -> None:
        self.sizes, self.label_smoothing = sizes, label_smoothing

    def loss(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Loss of each step, (R,)."""
        targets = actions.long().reshape(len(outputs), len(self.sizes)).unbind(1)
        losses = [
            F.cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing)
            for logits, target in zip(outputs.split(self.sizes, dim=1), targets, strict=True)
        ]
        return th.stack(losses).sum(0)

    def measure(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Whether all entries of the most probable action are right, (R, 1)."""
        chosen = th.stack([logits.argmax(1) for logits in outputs.split(self.sizes, dim=1)], dim=1)
        return (chosen == actions.reshape(chosen.shape)).all(1, keepdim=True).float()


class BinaryLoss:
    """
    Binary cross-entropy, for MultiBinary actions, whose entries' losses are summed.

    :param label_smoothing: Share of the target that is spread over both values.
    """

    metric = "accuracy"

    def __init__(self, label_smoothing: float) -> None:
        self.label_smoothing = label_smoothing

    def loss(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Loss of each step, (R,)."""
        target = actions.reshape(outputs.shape).to(outputs.dtype)
        target = target.lerp(th.full_like(target, 0.5), self.label_smoothing)
        return F.binary_cross_entropy_with_logits(outputs, target, reduction="none").sum(1)

    def measure(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Whether all entries of the most probable action are right, (R, 1)."""
        return ((outputs > 0) == actions.reshape(outputs.shape).bool()).all(1, keepdim=True).float()


class SquaredError:
    """
    Squared error of the mean action, averaged over its entries, for Box actions.

    :param squash: Whether the policy squashes its means by ``tanh``.
    """

    metric = "squared_error"

    def __init__(self, squash: bool) -> None:
        self.squash = squash

    def loss(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Loss of each step, (R,)."""
        return self.measure(outputs, actions).mean(1)

    def measure(self, outputs: Tensor, actions: Tensor) -> Tensor:
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
    if isinstance(space, spaces.Discrete):
        return DiscreteLoss([int(space.n)], label_smoothing)
    if isinstance(space, spaces.MultiDiscrete):
        return DiscreteLoss([int(n) for n in space.nvec], label_smoothing)
    if isinstance(space, spaces.MultiBinary):
        return BinaryLoss(label_smoothing)
    return SquaredError(policy.squash_output)


@th.no_grad()
def fit_log_std(policy: ElmurPolicy, squared_errors: Tensor, latent_square: Tensor) -> None:
    """
    Give a Gaussian policy the spread that its cloned means leave, the maximum-likelihood one, but at least 0.05.

    :param policy: With Box actions.
    :param squared_errors: Mean squared error of each entry of the action, (n,).
    :param latent_square: Mean squared length of the action network's input; gSDE's noise is proportional to its root.
    """
    std = squared_errors.sqrt().clamp(min=SMALLEST_STD)
    if isinstance(policy.action_dist, StateDependentNoiseDistribution):
        std = std / latent_square.sqrt()
        std = std if policy.action_dist.full_std else std.mean(0, keepdim=True)
    policy.log_std.copy_(std.log().expand_as(policy.log_std))

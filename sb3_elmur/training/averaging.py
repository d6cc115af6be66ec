"""The running average of a policy's weights."""

from copy import deepcopy
from typing import Any, Generic, TypeVar

import torch as th
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from sb3_elmur.distributed import Group

PolicyT = TypeVar("PolicyT", bound=ActorCriticPolicy)


class Average(Generic[PolicyT]):
    """
    The running average of a policy's weights over its updates (Shamir & Zhang 2013, arXiv 1212.1824).

    Between trainings the policy has the average, and the weights that trained are kept here, to go on from.

    :param policy: Where the average begins.
    :param n_updates: Updates that it has followed.
    :param trained: Weights that trained, to go on from; ``None`` while they train.

    Attribute ``policy`` is a copy with averaged weights, which shares optimiser and exploration noise.
    """

    def __init__(self, policy: PolicyT, n_updates: int = 0, trained: dict[str, Tensor] | None = None) -> None:
        shared = {id(policy.optimizer): policy.optimizer}
        results = [value for part in policy.modules() for value in vars(part).values() if isinstance(value, Tensor)]
        cut = {id(value): value.detach().clone() for value in results if not value.is_leaf}  # which cannot be copied
        self.policy: PolicyT = deepcopy(policy, shared | cut)
        self.policy.action_dist = policy.action_dist
        self.n_updates, self.trained = n_updates, trained

    @th.no_grad()
    def follow(self, policy: PolicyT, averaging: float) -> None:
        """
        Take 1 / (1 + ``averaging`` n) of the present weights after n updates, and all of buffers and of what is not trained.

        :param policy: After an update.
        :param averaging: Share in (0, 1] of the updates so far that the average reaches back over.
        """
        share = 1 / (1 + averaging * self.n_updates)
        for average, weight in zip(self.policy.parameters(), policy.parameters(), strict=True):
            average.lerp_(weight, share if weight.requires_grad else 1.0)
        for kept, buffer in zip(self.policy.buffers(), policy.buffers(), strict=True):
            kept.copy_(buffer)
        self.n_updates += 1

    def end(self, policy: PolicyT) -> None:
        """
        Give the average to the policy, and keep the weights that trained; a second time nothing happens.

        :param policy: After a training.
        """
        if self.trained is not None:
            return
        self.trained = {name: weight.clone() for name, weight in policy.state_dict().items()}
        policy.load_state_dict(self.policy.state_dict())

    def go_on(self, policy: PolicyT) -> bool:
        """
        Give the policy back the weights that trained, if it still has the average.

        :param policy: Before a further training.
        :return: Whether it had; if not, the average has to begin anew.
        """
        average = self.policy.state_dict()
        if self.trained is None or not all(th.equal(average[name], weight) for name, weight in policy.state_dict().items()):
            return False
        policy.load_state_dict(self.trained)
        self.trained = None
        return True


class EndAverage(BaseCallback):
    """Gives the policy the average of its weights before other callbacks are told that training has ended."""

    model: Any

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self.model.average is not None:
            self.model.average.end(self.model.policy)


def as_callbacks(callback: MaybeCallback) -> list[BaseCallback]:
    """The callbacks that ``learn`` was given, none, one, a function, or a list of these."""
    several = callback if isinstance(callback, list) else [] if callback is None else [callback]
    return [one if isinstance(one, BaseCallback) else ConvertCallback(one) for one in several]


def begin_average(policy: PolicyT, kept: Average[PolicyT] | None, group: Group) -> Average[PolicyT]:
    """
    Before a training, go on with an average, or begin one.

    :param policy: That is trained.
    :param kept: Of the training before; if the policy does not have its weights any more, another one begins.
    :param group: Processes that train together, and go on as the first one does.
    :return: The average.
    """
    average = kept if kept is not None and kept.go_on(policy) else Average(policy)
    group.copy_first(average.policy)
    average.n_updates = group.from_first(lambda: average.n_updates)
    return average

"""
What makes several processes train one :class:`sb3_elmur.RecurrentPPO`, each in environments of its own, as one would.

The host's ``train`` runs in each of them on minibatches that are the same in all: whatever it computes from them (losses,
normalised advantages, the divergence at which it stops) is that of all environments together. Of a minibatch, each process
replays its own chains, and gradients are averaged within the backward pass.
"""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from sb3_contrib.common.recurrent.type_aliases import RecurrentRolloutBufferSamples
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sb3_elmur.buffers import SegmentRolloutBuffer, default_batch_size
from sb3_elmur.core.states import Chains
from sb3_elmur.distributed import Group, LostProcessError, current_group, is_loss
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.training.averaging import as_callbacks

SHARED = ("num_timesteps", "_n_updates", "step_size", "return_rms")  # of a model, beside weights and their optimizer's state
DEPRECATED = ".*`broadcast_buffers` is deprecated.*"  # its successor is not in PyTorch 2.8


class _JointChains(NamedTuple):
    """
    Chains of a minibatch.

    :param own: This process's.
    :param sizes: Real steps of each process's.
    """

    own: Chains
    sizes: list[int]


class _Evaluation(nn.Module):
    """``evaluate_actions`` as a module, so that ``DistributedDataParallel`` can wrap it."""

    def __init__(self, policy: ElmurPolicy, group: Group) -> None:
        super().__init__()
        self.policy, self.group = policy, group
        self.unused = nn.Parameter(th.zeros(()))  # PyTorch would warn of a search for unused parameters that finds none

    def forward(self, obs: Any, actions: Tensor, chains: _JointChains, episode_starts: Tensor) -> Tensor:
        """Values, log-probabilities and perhaps entropies of all processes' steps, (2 or 3, N)."""
        values, *others = self.policy.evaluate_actions(obs, actions, chains.own, episode_starts)
        outputs = [values.flatten(), *(other for other in others if other is not None)]
        return self.group.join(th.stack(outputs), chains.sizes)


class _JointPolicy:
    """The policy, for the host's ``train``: it evaluates minibatches of all processes."""

    def __init__(self, policy: ElmurPolicy, group: Group) -> None:
        self._policy = policy
        # What no process uses has no gradient, as in one process; so it does not move by the optimizer's momentum.
        self._evaluation = DistributedDataParallel(
            _Evaluation(policy, group), broadcast_buffers=False, find_unused_parameters=True
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def evaluate_actions(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :meth:`sb3_elmur.ElmurPolicy.evaluate_actions`."""
        values, log_prob, *entropy = self._evaluation(*arguments)
        return values, log_prob, entropy[0] if entropy else None


class _JointBuffer:
    """The rollout buffer, for the host's ``train``: it gives minibatches of all processes."""

    def __init__(self, buffer: SegmentRolloutBuffer, group: Group) -> None:
        self._buffer, self._group = buffer, group
        self.values, self.returns = group.gather(buffer.values), group.gather(buffer.returns)

    def get(self, batch_size: int | None) -> Iterator[RecurrentRolloutBufferSamples]:
        """As many minibatches in each process, which together have at least ``batch_size`` steps."""
        group = self._group
        steps = self._buffer.buffer_size * self._buffer.n_envs * group.size
        share = math.ceil((batch_size or default_batch_size(steps)) / group.size)
        for data in self._buffer.get(share, at_most=lambda number: int(group.gather(number).min())):
            sizes = group.gather(len(data.mask)).astype(int).tolist()
            numbers = th.stack((data.old_values, data.old_log_prob, data.advantages, data.returns))
            values, log_prob, advantages, returns = group.join(numbers, sizes)
            chains: Any = data.lstm_states
            yield data._replace(
                old_values=values,
                old_log_prob=log_prob,
                advantages=advantages,
                returns=returns,
                lstm_states=_JointChains(chains._replace(pool=group.pool), sizes),  # type: ignore[arg-type]
                mask=th.ones_like(values),
            )


@contextmanager
def updating_jointly(model: Any) -> Iterator[None]:
    """
    Around the host's ``train``: it trains on the rollouts of all processes. Alone, it trains as ever.

    :param model: A :class:`sb3_elmur.RecurrentPPO`, whose weights are the same in all processes.
    """
    group = current_group()
    if group.size == 1:
        yield
        return
    policy, buffer = model.policy, model.rollout_buffer
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", DEPRECATED)
            model.policy, model.rollout_buffer = _JointPolicy(policy, group), _JointBuffer(buffer, group)
            yield
    finally:
        model.policy, model.rollout_buffer = policy, buffer


class SharedMeanStd(RunningMeanStd):
    """
    Statistics of what all processes see. Copies and files of them are the host's class.

    :param statistics: What they begin with.
    :param group: The processes, which update them together.
    """

    def __init__(self, statistics: RunningMeanStd, group: Group) -> None:
        self.__dict__.update(statistics.__dict__)
        self._group = group

    def update(self, arr: np.ndarray) -> None:
        """Take in a batch of each process, (n, ...)."""
        for mean, variance in self._group.gather((np.mean(arr, axis=0), np.var(arr, axis=0))):
            self.update_from_moments(mean, variance, len(arr))

    def __reduce__(self) -> tuple[type[RunningMeanStd], tuple[()], dict[str, Any]]:
        moments = {name: value for name, value in self.__dict__.items() if name != "_group"}
        return RunningMeanStd, (), moments


class FirstProcessCallback(CallbackList):
    """
    Calls callbacks in the first process alone. Where one stops training, all processes stop after the rollout.

    :param callback: What was given to ``learn``.
    :param group: The processes.
    """

    def __init__(self, callback: MaybeCallback, group: Group) -> None:
        super().__init__(as_callbacks(callback) if group.rank == 0 else [])

    def _on_step(self) -> bool:
        model: Any = self.model
        model._stopped = model._stopped or not super()._on_step()
        return True


@contextmanager
def learning_jointly(model: Any) -> Iterator[Group]:
    """
    Around ``learn``: all processes go on from what the first one has, and share statistics of ``VecNormalize``.

    :param model: A :class:`sb3_elmur.RecurrentPPO`.
    :return: The processes.
    :raises ValueError: If the processes have other numbers of environments or steps.
    :raises LostProcessError: If another process ends before this one.
    """
    group = current_group()
    if group.size == 1:
        yield group
        return
    normalizer: VecNormalize | None = model.get_vec_normalize_env()
    try:
        _check_equal(model, group)
        _begin_as_first(model, normalizer, group)
        if normalizer is not None:
            _replace_statistics(normalizer, lambda statistics: SharedMeanStd(statistics, group))
        yield group
    except Exception as error:
        if is_loss(error):
            raise LostProcessError(
                f"Process {group.rank} of {group.size} has lost another one, which was killed or has failed, within "
                f"{model.num_timesteps} steps."
            ) from error
        raise
    finally:
        if normalizer is not None:
            _replace_statistics(normalizer, RunningMeanStd.copy)


def _check_equal(model: Any, group: Group) -> None:
    for name in ("n_envs", "n_steps", "n_epochs"):
        values = group.gather(getattr(model, name)).astype(int).tolist()
        if len(set(values)) > 1:
            raise ValueError(f"`{name}` must be the same in all processes. Received {values}.")


def _begin_as_first(model: Any, normalizer: VecNormalize | None, group: Group) -> None:
    """Set weights, counters and statistics to what the first process has; others than the first are silent from now on."""

    def pack() -> bytes:
        file = io.BytesIO()
        state = {"policy": model.policy.state_dict(), "optimizer": model.policy.optimizer.state_dict()}
        state |= {name: getattr(model, name) for name in SHARED}
        if normalizer is not None:
            state["statistics"] = {
                name: getattr(normalizer, name) for name in ("obs_rms", "ret_rms") if hasattr(normalizer, name)
            }
        th.save(state, file)
        return file.getvalue()

    state = th.load(io.BytesIO(group.from_first(pack)), map_location=model.device, weights_only=False)
    if group.rank == 0:
        return
    model.policy.load_state_dict(state["policy"])
    model.policy.optimizer.load_state_dict(state["optimizer"])
    for name in SHARED:
        setattr(model, name, state[name])
    for name, statistics in state.get("statistics", {}).items():
        setattr(normalizer, name, statistics)
    model.verbose = 0
    model.set_logger(Logger(None, []))


def _replace_statistics(normalizer: VecNormalize, replace: Any) -> None:
    """Put others in the place of a ``VecNormalize``'s statistics."""
    whole: Any = getattr(normalizer, "obs_rms", None)
    if isinstance(whole, dict):
        normalizer.obs_rms = {key: replace(statistics) for key, statistics in whole.items()}
    elif whole is not None:
        normalizer.obs_rms = replace(whole)
    normalizer.ret_rms = replace(normalizer.ret_rms)

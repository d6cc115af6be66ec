"""Episodes cut into chains of segments, and one pass over the chains of a batch."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor, nn

from sb3_elmur.bc.loss import CloningLoss
from sb3_elmur.core.memory import Memory
from sb3_elmur.datasets.episodes import Episode
from sb3_elmur.distributed import Group
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.spaces import choices, from_zero, shifts


class Batch(NamedTuple):
    """
    Chains of consecutive segments, one of each of C episodes; their R steps are laid out in segment-major order.

    :param obs: Observations, (R, ...), or features of observations, (R, features_dim).
    :param actions: Recorded actions as networks give them, (R, ...): squashed to [-1, 1], or counted from 0.
    :param lengths: Steps of each chain, (C,) int64, on the CPU, none larger than the one before.
    :param n_steps: Steps of the chains of all processes.
    :param goes_on: Whether an episode goes on after them.
    :param masks: Which choices were valid, (R, n) bool; ``None`` for all.
    :param from_features: Whether ``obs`` are features.
    """

    obs: Any
    actions: Tensor
    lengths: Tensor
    n_steps: int
    goes_on: bool
    masks: Tensor | None = None
    from_features: bool = False


class ChainLoss(nn.Module):
    """
    One pass over chains, as a module, so that ``DistributedDataParallel`` can wrap it.

    :param policy: What is trained.
    :param cloning_loss: For its action space.
    :param group: Processes that make each pass together.
    """

    def __init__(self, policy: ElmurPolicy, cloning_loss: CloningLoss, group: Group) -> None:
        super().__init__()
        self.policy, self.cloning_loss, self.group = policy, cloning_loss, group

    def forward(self, batch: Batch, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        """
        Run the chains.

        :param batch: C chains.
        :param memory: Memory before them.
        :return: The sum of the steps' losses; the number of steps and sums over them, (3 + m,): of losses, of the squared
            length of the action network's input, and of the m measures of the loss; and, if an episode goes on, memory after
            the last segment, detached, of the chains that reach it.
        """
        replay = self.policy.replay_features if batch.from_features else self.policy.replay
        latent, memory = replay(batch.obs, memory, batch.lengths, need_memory=batch.goes_on, pool=self.group.pool)
        outputs = self.policy.action_net(latent).float()
        loss = self.cloning_loss.loss(outputs, batch.actions, batch.masks).sum()
        measured = self.cloning_loss.measure(outputs.detach(), batch.actions, batch.masks).sum(0)
        square = latent.detach().float().square().sum()
        sums = th.cat((th.stack((loss.new_tensor(len(latent)), loss.detach(), square)), measured))
        if self.group.size > 1:  # so that every process gives all parameters a gradient, whatever its share is
            loss = loss + 0.0 * th.stack([parameter.sum() for parameter in self.policy.parameters()]).sum()
        return loss, sums, memory._replace(slots=memory.slots.detach())


def cut_chains(
    policy: ElmurPolicy,
    episodes: Sequence[Episode],
    lengths: np.ndarray,
    chain_length: int,
    feature_space: spaces.Space | None = None,
) -> Iterator[Batch]:
    """
    Cut episodes into chains, all beginning at the same step: the first chain of each, then the second of those that go on.

    :param policy: What they are for.
    :param episodes: This process's, none longer than the one before.
    :param lengths: Of the episodes of all processes, none larger than the one before.
    :param chain_length: Steps of a chain, whole segments.
    :param feature_space: Of the features that the episodes hold in place of observations, if they do.
    :return: The chains of each step.
    """
    own_lengths = np.array([len(episode) for episode in episodes], dtype=np.int64)
    for begin in range(0, int(lengths[0]), chain_length):
        rows = int((own_lengths > begin).sum())
        ends = np.minimum(own_lengths[:rows], begin + chain_length)
        space = policy.observation_space if feature_space is None else feature_space
        obs, actions, masks = _segment_major(policy, episodes[:rows], begin, ends, space)
        yield Batch(
            policy.obs_to_tensor(obs)[0] if feature_space is None else th.as_tensor(obs, device=policy.device),
            actions.to(policy.device),
            th.as_tensor(ends - begin),
            n_steps=int((lengths - begin).clip(0, chain_length).sum()),
            goes_on=begin + chain_length < lengths[0],
            masks=None if masks is None else masks.to(policy.device),
            from_features=feature_space is not None,
        )


def _segment_major(
    policy: ElmurPolicy, episodes: Sequence[Episode], begin: int, ends: np.ndarray, space: spaces.Space
) -> tuple[Any, Tensor, Tensor | None]:
    """
    Lay out chains from step ``begin`` on, the first segment of each chain, then the second of each.

    :param ends: Step after each chain, (C,).
    :param space: Of the episodes' observations.
    :return: Observations, actions as networks give them, and masks, if any episode has some.
    """
    length = policy.backbone.core.segment_length
    parts = [
        (episode, slice(start, min(start + length, end)))
        for start in range(begin, int(ends.max(initial=begin)), length)
        for episode, end in zip(episodes, ends.tolist(), strict=True)
        if start < end
    ]
    if isinstance(space, spaces.Dict):
        obs: Any = {key: _join([e.observations[key][part] for e, part in parts], space[key]) for key in space}
    else:
        obs = _join([e.observations[part] for e, part in parts], space)  # type: ignore[index]
    actions = _join([e.actions[part] for e, part in parts], policy.action_space)
    if policy.squash_output:
        actions = policy.scale_action(actions)
    return obs, from_zero(th.as_tensor(actions), shifts(policy.action_space)), _join_masks(parts, policy.action_space)


def _join_masks(parts: list[tuple[Episode, slice]], action_space: spaces.Space) -> Tensor | None:
    """Masks of steps one after another, (R, n) bool; where an episode has none, all choices are valid."""
    if all(episode.action_masks is None for episode, _ in parts):
        return None
    n_choices = sum(choices(action_space) or [])
    masks = [
        np.ones((part.stop - part.start, n_choices), bool) if e.action_masks is None else e.action_masks[part]
        for e, part in parts
    ]
    return th.as_tensor(np.concatenate(masks).astype(bool))


def _join(parts: list[np.ndarray], space: spaces.Space) -> np.ndarray:
    """Arrays of steps one after another; without any, none."""
    return np.concatenate(parts) if parts else np.empty((0, *space.shape), dtype=space.dtype)  # type: ignore[misc]

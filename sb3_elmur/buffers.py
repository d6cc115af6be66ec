"""
Rollout buffer of whole segments.

Memory is stored once per chain of ``bptt_segments`` segments, not at every step: chains are aligned to the episode's start,
so that chain c holds the segments c * k, ..., c * k + k - 1 of its episode. What a chain needs from before the rollout, its
first memory and the observations since, is carried over.
"""

import itertools
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RecurrentRolloutBufferSamples
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from torch import Tensor

from sb3_elmur.core.memory import Memory, by_row
from sb3_elmur.core.states import Chains, Memories
from sb3_elmur.spaces import map_observations


class _ChainIndex(NamedTuple):
    """Where the chains of a full buffer lie, C of them, each (C,) int64."""

    env: np.ndarray
    begin: np.ndarray  # first step inside the rollout
    n_carried: np.ndarray  # steps before the rollout
    n_counted: np.ndarray  # steps inside the rollout
    record: np.ndarray  # row of the stored memories; -1 for an episode's start


def default_batch_size(n_steps: int) -> int:
    """
    How many steps a minibatch has at least, where nothing is said.

    More environments make minibatches larger, not more: small ones take as long to launch.

    :param n_steps: Of a rollout, in all environments.
    :return: An eighth, but at least 256.
    """
    return max(256, n_steps // 8)


class SegmentRolloutBuffer(RolloutBuffer):
    """
    Rollout buffer of whole segments: memory once per chain, and the observations of open chains carried over.

    :param buffer_size: Steps per rollout and environment.
    :param observation_space: Observation space.
    :param action_space: Action space.
    :param fresh: Makes memory at an episode's start, of ``n_envs`` rows.
    :param segment_length: L.
    :param bptt_segments: Segments per chain (k).
    :param device: Device of the samples.
    :param gae_lambda: Factor of generalised advantage estimation.
    :param gamma: Discount factor.
    :param n_envs: Number of environments.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        fresh: Callable[[], Memories],
        segment_length: int,
        bptt_segments: int,
        device: th.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
    ) -> None:
        self.segment_length = segment_length
        self.chain_length = bptt_segments * segment_length
        self._make_fresh = fresh
        self._chain_memories = fresh().map(lambda memory: Memory(*(field.clone() for field in memory)))
        self._next_position = np.zeros(n_envs, dtype=np.int64)
        self._timeline: Any = None  # observations of `_reach` steps before the rollout, and of the rollout
        self._reach = 0
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    @property
    def state_bytes(self) -> int:
        """Bytes of recurrent state that the buffer holds."""
        kept = [*self._records, self._chain_memories] + ([] if self._table is None else [self._table])
        fields = [field for memories in kept for memory in memories.distinct() for field in memory]
        return sum(field.numel() * field.element_size() for field in fields)

    def reset(self) -> None:
        """Empty the buffer, but keep the observations that open chains may need: up to the last ``k * L - 1`` steps."""
        reach = int((self._next_position % self.chain_length).max())
        carried, end = self._timeline, self._reach + getattr(self, "pos", 0)
        super().reset()
        self._fresh = self._make_fresh()

        def extend(empty: np.ndarray) -> np.ndarray:
            return np.zeros((reach + len(empty), *empty.shape[1:]), dtype=empty.dtype)

        self._timeline, self._reach = map_observations(extend, self.observations), reach
        if reach:
            map_observations(lambda new, old: new.__setitem__(slice(reach), old[end - reach : end]), self._timeline, carried)
        self.observations = map_observations(lambda timeline: timeline[reach:], self._timeline)
        self.positions = np.zeros((self.buffer_size, self.n_envs), dtype=np.int64)
        self._record_of = np.full((self.buffer_size, self.n_envs), -1)
        self.action_masks: np.ndarray | None = None
        self._records: list[Memories] = []
        self._n_records = 0
        self._table: Memories | None = None
        self._chains: _ChainIndex | None = None

    def add(  # type: ignore[override]
        self,
        obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: Tensor,
        log_prob: Tensor,
        memories: Memories,
        action_masks: np.ndarray | None = None,
    ) -> None:
        """
        Add one step of all environments.

        :param obs: Observations before the step, (n_envs, ...).
        :param action: Actions, (n_envs, ...).
        :param reward: Rewards, (n_envs,).
        :param episode_start: Whether ``obs`` begins an episode, (n_envs,).
        :param value: Values of ``obs``, (n_envs, 1).
        :param log_prob: Log-probabilities of the actions, (n_envs,).
        :param memories: Memory after the step, shared by actor and critic if fresh memory is.
        :param action_masks: Which choices were valid, (n_envs, n); ``None`` for all, at every step of a rollout.
        """
        position = np.where(episode_start, 0, self._next_position)
        begins = (position % self.chain_length == 0) | (self.pos == 0)
        stored = np.flatnonzero(begins & (position >= self.chain_length))
        if len(stored):
            rows = th.as_tensor(stored)
            self._records.append(self._chain_memories.map(lambda memory: memory.rows(rows)))
            self._record_of[self.pos, stored] = self._n_records + np.arange(len(stored))
            self._n_records += len(stored)
        self.positions[self.pos] = position
        if action_masks is not None:
            if self.action_masks is None:
                self.action_masks = np.ones((self.buffer_size, self.n_envs, action_masks.size // self.n_envs), dtype=bool)
            self.action_masks[self.pos] = action_masks.reshape(self.n_envs, -1)
        super().add(obs, action, reward, episode_start, value, log_prob)
        self._next_position = position + 1
        complete = np.flatnonzero(self._next_position % self.chain_length == 0)
        if len(complete):
            rows = th.as_tensor(complete)
            for chain_memory, memory in zip(self._chain_memories.distinct(), memories.distinct(), strict=True):
                for old, new in zip(chain_memory, memory, strict=True):
                    old[rows] = new[rows]

    def open_chains(self, episode_starts: np.ndarray) -> tuple[Any, Memories, Tensor]:
        """
        What the chains that are open before the next step need, for an empty buffer.

        :param episode_starts: Whether the next observation begins an episode, (n_envs,).
        :return: Their earlier observations (n_envs * T, ...), the memories before them, and their lengths (n_envs,).
        """
        position = np.where(episode_starts, 0, self._next_position)
        length = position % self.chain_length
        time = np.arange(length.max())
        index = np.minimum(self._reach - length[:, None] + time, self._reach - 1)
        env = np.arange(self.n_envs)[:, None]
        observations = map_observations(
            lambda timeline: self.to_torch(timeline[index, env].reshape(-1, *timeline.shape[2:])), self._timeline
        )
        first = th.as_tensor(position < self.chain_length, device=self._fresh.pi.position.device)

        def begin(fresh: Memory, chain: Memory) -> Memory:
            """Fresh memory for the first chain of an episode, what was kept for a later one."""
            return Memory(*(by_row(first, new, old) for new, old in zip(fresh, chain, strict=True)))

        return observations, self._fresh.map(begin, self._chain_memories), th.as_tensor(length, device=first.device)

    def get(  # type: ignore[override]
        self, batch_size: int | None = None, at_most: Callable[[int], int] | None = None
    ) -> Generator[RecurrentRolloutBufferSamples, None, None]:
        """
        Minibatches of whole chains in random order, each of at least ``batch_size`` real steps.

        A remainder below half of that, or of a single step, joins the minibatch before it.

        :param batch_size: ``None`` for :func:`default_batch_size`.
        :param at_most: How many minibatches there shall be instead, at most as many; some are joined to one then.
        """
        chains = self._all_chains()
        order = np.random.permutation(len(chains.n_counted))
        minibatches = self._minibatches(chains.n_counted[order], self._least(batch_size))
        if at_most is not None:
            joined = np.array_split(np.arange(len(minibatches)), at_most(len(minibatches)))
            minibatches = [slice(minibatches[several[0]].start, minibatches[several[-1]].stop) for several in joined]
        for chosen in minibatches:
            yield self._sample(_ChainIndex(*(field[order[chosen]] for field in chains)))

    def get_episodes(
        self, batch_size: int | None = None, at_once: int = 1
    ) -> Generator[RecurrentRolloutBufferSamples, None, None]:
        """
        As :meth:`get`, in a fixed order, and with all chains of an episode joined to one.

        So memory is what the present weights write, from the first chain of the episode in the rollout on, whereas the
        chains that :meth:`get` gives begin with what the weights wrote that collected the rollout.

        :param batch_size: As for :meth:`get`.
        :param at_once: How many times as large minibatches are.
        """
        chains = self._all_chains()
        first = np.flatnonzero((chains.begin == 0) | (chains.record < 0))
        counted = np.add.reduceat(chains.n_counted, first)
        episodes = _ChainIndex(*(field[first] for field in chains))._replace(n_counted=counted)
        for chosen in self._minibatches(counted, at_once * self._least(batch_size)):
            yield self._sample(_ChainIndex(*(field[chosen] for field in episodes)))

    def _least(self, batch_size: int | None) -> int:
        return batch_size or default_batch_size(self.buffer_size * self.n_envs)

    def _all_chains(self) -> _ChainIndex:
        assert self.full, "Rollout buffer must be full before sampling from it"
        if self._chains is None:
            self._chains = self._find_chains()
            self._table = self._fresh.map(_stack_records, *self._records)
            self._records = []
        return self._chains

    def _find_chains(self) -> _ChainIndex:
        begins = self.positions % self.chain_length == 0
        begins[0] = True
        flat = np.flatnonzero(begins.T)  # environment by environment
        env, begin = np.divmod(flat, self.buffer_size)
        counted = np.diff(flat, append=begins.size)
        return _ChainIndex(env, begin, self.positions[begin, env] % self.chain_length, counted, self._record_of[begin, env])

    @staticmethod
    def _minibatches(counted: np.ndarray, batch_size: int) -> list[slice]:
        """Chains of each minibatch, given the real steps of every chain (C,)."""
        ends, steps = [0], 0
        for last, count in enumerate(counted):
            steps += count
            if steps >= max(batch_size, 2):
                ends.append(last + 1)
                steps = 0
        if len(ends) > 1 and steps < max(batch_size / 2, 2):
            ends.pop()
        return [slice(*pair) for pair in itertools.pairwise((*ends, len(counted)))]

    def _sample(self, chains: _ChainIndex) -> RecurrentRolloutBufferSamples:
        total = chains.n_carried + chains.n_counted
        n_segments = -(-total // self.segment_length)
        order = np.argsort(-n_segments, kind="stable")
        chains, total = _ChainIndex(*(field[order] for field in chains)), total[order]
        times, envs = [], []
        for start in range(0, int(total.max()), self.segment_length):
            within = np.arange(start, start + self.segment_length)
            chain, offset = np.nonzero(within < total[:, None])
            times.append(chains.begin[chain] - chains.n_carried[chain] + within[offset])
            envs.append(chains.env[chain])
        time, env = np.concatenate(times), np.concatenate(envs)
        counted = time >= 0
        real = time[counted], env[counted]
        device = self._fresh.pi.position.device
        rows = th.as_tensor(chains.record, device=device)
        assert self._table is not None
        memories = self._table.map(lambda memory: memory.rows(rows))
        return RecurrentRolloutBufferSamples(
            observations=map_observations(lambda timeline: self.to_torch(timeline[time + self._reach, env]), self._timeline),
            actions=self.to_torch(self.actions[real]),
            old_values=self.to_torch(self.values[real]),
            old_log_prob=self.to_torch(self.log_probs[real]),
            advantages=self.to_torch(self.advantages[real]),
            returns=self.to_torch(self.returns[real]),
            lstm_states=Chains(  # type: ignore[arg-type]
                *memories,
                lengths=th.as_tensor(total),
                counted=th.as_tensor(counted, device=device),
                action_masks=None if self.action_masks is None else th.as_tensor(self.action_masks[real], device=device),
            ),
            episode_starts=self.to_torch(self.episode_starts[real]),
            mask=th.ones(len(real[0]), device=self.device),
        )


def _stack_records(fresh: Memory, *records: Memory) -> Memory:
    """One row for each stored chain, and fresh memory as the last row, which is row -1."""
    return Memory(*map(th.cat, zip(*records, fresh.rows(slice(1)), strict=True)))


class SegmentDictRolloutBuffer(SegmentRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """Rollout buffer of whole segments for Dict observations; arguments as :class:`SegmentRolloutBuffer`."""

"""
Every form in which recurrent state travels.

=================== ==================================== ================================== ================================
form                who makes it                         who reads it                       when it is stale
=================== ==================================== ================================== ================================
`Memory`            `MemoryCore.segment`, `replay`       the same, buffer, monitoring       never: it is what was written
`Memories`          `policy.initial_memories`            buffer, `policy.reopen`            never
`ElmurState`,       `MemoryCore.open_segment`, `step`    `MemoryCore.step`                  when weights change, for it has
`CellState`                                                                                 caches (`LayerCache`,
                                                                                            `LayerConstants`)
`PolicyState`       `policy.reopen`, `policy.forward`    `policy.forward`, which updates    when weights change
                                                         it in place, `predict_values`
`Chains`            `SegmentRolloutBuffer.get`           `policy.evaluate_actions`          never
`Pair`              `PackedLayout.pack`                  sb3-contrib's RecurrentPPO and     never; its tokens were embedded
                                                         buffer, `predict`                  with the weights of their time
`PackedState`       the policy, from sb3-contrib's       `policy.forward`,                  never
                    `RNNStates`                          `policy.evaluate_actions`
`LiveState`         `Backbone.revive`, `live_step`       the same, `Backbone.pack`          when weights change
`RememberingPair`   `policy.predict`                     `policy.predict`                   never: if weights or arrays have
                                                                                            changed, it is a plain `Pair`
=================== ==================================== ================================== ================================

The shapes stand with each form: B rows, one for each environment; N layers, M slots, D width, H heads, L steps per segment.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch as th
from torch import Tensor

from sb3_elmur.core.feedforward import Pool
from sb3_elmur.core.memory import EMPTY, Memory, reset_memory

Pair = tuple[Tensor, ...]  # sb3-contrib's (hidden, cell), each (1, B, hidden_size)


class Memories(NamedTuple):
    """
    Memory of actor and critic; the same object twice if they share their backbone.

    :param pi: The actor's, B rows.
    :param vf: The critic's, B rows.
    """

    pi: Memory
    vf: Memory

    def map(self, function: Callable[..., Memory], *others: "Memories") -> "Memories":
        """
        Apply a function to both, or once if they are shared.

        :param function: Takes one memory of this object and of each of the ``others``.
        :param others: Shared if this object is.
        :return: What the function returns, shared if this object is.
        """
        pi = function(self.pi, *(other.pi for other in others))
        return Memories(pi, pi if self.vf is self.pi else function(self.vf, *(other.vf for other in others)))

    def distinct(self) -> tuple[Memory, ...]:
        """The one memory that is shared, or both."""
        return (self.pi,) if self.vf is self.pi else (self.pi, self.vf)


@runtime_checkable
class CoreState(Protocol):
    """What ``MemoryCore.step`` needs: memory, and whatever a core keeps within a segment."""

    @property
    def memory(self) -> Memory:
        """Memory of B rows."""

    def rows(self, index: Tensor) -> "CoreState":
        """The rows that ``index`` (b,) selects."""


class LayerCache(NamedTuple):
    """
    What one ELMUR layer keeps between steps.

    :param keys_values: Keys and values of the open segment's tokens, (B, H, L, 2 D / H).
    :param slot_keys: Keys of the slots, (B, H, M, D / H).
    :param slot_values: Values of the slots, (B, H, M, D / H).
    """

    keys_values: Tensor
    slot_keys: Tensor
    slot_values: Tensor


class LayerConstants(NamedTuple):
    """
    What one ELMUR layer derives from its weights alone.

    :param slot_keys: Keys of the initial slots, (H, M, D / H).
    :param slot_values: Values of the initial slots, (H, M, D / H).
    :param weight: Of the linear map :meth:`sb3_elmur.core.attention.SelfAttention.projection`, (3 D + H P, D).
    :param bias: Of the same map, (3 D + H P,).
    :param to_query: See :meth:`sb3_elmur.core.attention.WriteAttention.maps`, (D, H D); empty without slots.
    :param to_output: Likewise, (H D, D).
    """

    slot_keys: Tensor
    slot_values: Tensor
    weight: Tensor
    bias: Tensor
    to_query: Tensor
    to_output: Tensor


class ElmurState(NamedTuple):
    """
    State of an ELMUR stack within a segment.

    :param memory: Memory of B rows.
    :param outputs: Every layer's outputs for the open segment's tokens, from which memory is written, (B, N, L, D).
    :param caches: Of each layer, B rows.
    :param constants: Of each layer; they depend on the weights alone and have no rows.
    """

    memory: Memory
    outputs: Tensor
    caches: tuple[LayerCache, ...]
    constants: tuple[LayerConstants, ...]

    def rows(self, index: Tensor) -> "ElmurState":
        """The rows that ``index`` (b,) selects."""
        caches = tuple(LayerCache(*(field[index] for field in cache)) for cache in self.caches)
        return ElmurState(self.memory.rows(index), self.outputs[index], caches, self.constants)


class CellState(NamedTuple):
    """
    State of a :class:`sb3_elmur.core.recurrent.RecurrentCore` within a segment.

    :param memory: Memory of B rows: what was remembered at the open segment's start.
    :param hidden: What is remembered after the last token, tensors (B, ...).
    """

    memory: Memory
    hidden: tuple[Tensor, ...]

    def rows(self, index: Tensor) -> "CellState":
        """The rows that ``index`` (b,) selects."""
        return CellState(self.memory.rows(index), tuple(part[index] for part in self.hidden))


class Runner(Protocol):
    """The ways in which a :class:`sb3_elmur.core.backbone.Backbone` runs, of which each form of state needs one."""

    def step(self, features: Tensor, state: Any, episode_starts: Tensor, *, inplace: bool) -> tuple[Tensor, CoreState]:
        """One step with caches."""

    def replay(self, features: Tensor, memory: Memory, lengths: Tensor, *, pool: Pool | None = None) -> tuple[Tensor, Memory]:
        """Chains of segments."""

    def unroll(
        self, features: Tensor, pair: Pair, episode_starts: Tensor, *, detach_memory: bool, need_state: bool
    ) -> tuple[Tensor, Pair]:
        """Sequences from packed states."""


class PolicyState(NamedTuple):
    """
    State of actor and critic with caches, for stepping; the same object twice if they share their backbone.

    :param pi: The actor's, B rows.
    :param vf: The critic's, B rows.
    """

    pi: CoreState
    vf: CoreState

    def rows(self, index: Tensor) -> "PolicyState":
        """The rows that ``index`` (b,) selects."""
        pi = self.pi.rows(index)
        return PolicyState(pi, pi if self.vf is self.pi else self.vf.rows(index))

    @property
    def memories(self) -> Memories:
        """Memory of actor and critic."""
        pi = self.pi.memory
        return Memories(pi, pi if self.vf is self.pi else self.vf.memory)

    def run(self, backbone: Runner, features: Tensor, part: CoreState, episode_starts: Tensor) -> tuple[Tensor, CoreState]:
        """
        Run one step, which writes into the tensors of ``part``.

        :param backbone: The actor's or the critic's.
        :param features: (B, features_dim).
        :param part: ``pi`` or ``vf``.
        :param episode_starts: (B,), true where an episode begins.
        :return: Latents (B, D), and the part after the step.
        """
        return backbone.step(features, part, episode_starts, inplace=True)


class Chains(NamedTuple):
    """
    Chains of consecutive segments to replay; their R tokens are laid out in segment-major order.

    :param pi: The actor's memory before each of the C chains.
    :param vf: The critic's.
    :param lengths: Tokens of each chain, (C,) int64, on the CPU; their numbers of segments do not increase.
    :param counted: (R,), false for tokens that only lead up to the others and have no outputs.
    :param action_masks: Which choices are valid at the tokens that are ``counted``, (counted, n) bool; ``None`` for all.
    :param pool: See :meth:`sb3_elmur.core.base.MemoryCore.replay`.
    """

    pi: Memory
    vf: Memory
    lengths: Tensor
    counted: Tensor
    action_masks: Tensor | None = None
    pool: Pool | None = None

    def run(self, backbone: Runner, features: Tensor, part: Memory, episode_starts: Tensor) -> tuple[Tensor, Memory]:
        """
        Replay the chains.

        :param backbone: The actor's or the critic's.
        :param features: (R, features_dim).
        :param part: ``pi`` or ``vf``, left as it is.
        :param episode_starts: Unused: a chain lies within an episode.
        :return: Latents of the tokens that are ``counted``, and ``part``.
        """
        latent, _ = backbone.replay(features, part, self.lengths, pool=self.pool)
        return latent[self.counted], part


class PackedState(NamedTuple):
    """
    sb3-contrib's ``RNNStates``, and how to run them.

    :param pi: The actor's pair.
    :param vf: The critic's pair.
    :param detach_memory: Stop gradients at segment borders.
    :param need_state: Whether the state after the sequences is used.
    """

    pi: Pair
    vf: Pair
    detach_memory: bool
    need_state: bool

    def run(self, backbone: Runner, features: Tensor, part: Pair, episode_starts: Tensor) -> tuple[Tensor, Pair]:
        """
        Run sequences of equal length T.

        :param backbone: The actor's or the critic's.
        :param features: (B * T, features_dim), sequence by sequence.
        :param part: ``pi`` or ``vf``, left as it is.
        :param episode_starts: (B * T,), 1 where an episode begins.
        :return: Latents (B * T, D), and the pair after the sequences if it is needed.
        """
        return backbone.unroll(features, part, episode_starts, detach_memory=self.detach_memory, need_state=self.need_state)


class LiveState(NamedTuple):
    """
    State with caches that can also be packed.

    :param state: For stepping, B rows.
    :param tokens: Inputs of the open segment's tokens, (B, L, D); others may be anything.
    """

    state: CoreState
    tokens: Tensor


class RememberingPair(tuple[np.ndarray, ...]):
    """
    The pair of arrays that ``predict`` returns, with the state that it was packed from.

    :param arrays: Hidden and cell, each (1, B, hidden_size).
    :param state: The state with caches.
    :param fingerprint: Of the weights; the same object as long as they are the same.
    """

    _state: LiveState
    _fingerprint: object
    _packed: tuple[np.ndarray, ...]

    def __new__(cls, arrays: Iterable[np.ndarray], state: LiveState, fingerprint: object) -> "RememberingPair":
        """Make the pair, and keep a copy of its arrays."""
        pair = super().__new__(cls, arrays)
        pair._state, pair._fingerprint = state, fingerprint
        pair._packed = tuple(array.copy() for array in pair)
        return pair

    def __reduce__(self) -> tuple[type[tuple], tuple[tuple[np.ndarray, ...]]]:
        return tuple, (tuple(self),)

    def live(self, fingerprint: object) -> LiveState | None:
        """The state, if neither arrays nor weights have changed since."""
        same = fingerprint is self._fingerprint and all(map(np.array_equal, self, self._packed))
        return self._state if same else None


class StateShape(NamedTuple):
    """What sb3-contrib's ``RecurrentPPO`` reads from ``policy.lstm_actor`` to size its state tensors."""

    num_layers: int
    hidden_size: int


@dataclass(frozen=True)
class PackedLayout:
    """
    How memory and open segment travel in sb3-contrib's (hidden, cell) pair of shape (1, B, ``hidden_size``), float32.

    The pair is one flat vector cut into two halves: slots, inputs of the open segment's earlier tokens, anchors + 1, and
    position. Integers are stored as two exact float32 parts, multiples of 2^20 and the rest, so that any episode shorter
    than 2^44 steps is exact. A pair of zeros is an episode's start.

    :param n_layers: N.
    :param memory_size: M.
    :param d_model: D.
    :param segment_length: L.
    """

    n_layers: int
    memory_size: int
    d_model: int
    segment_length: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Floats used by slots, tokens, and the integers' high and low parts."""
        integers = self.memory_size + 1
        slots = self.n_layers * self.memory_size * self.d_model
        return slots, (self.segment_length - 1) * self.d_model, integers, integers

    @property
    def hidden_size(self) -> int:
        """Width of each half of the pair."""
        return math.ceil(sum(self.sizes) / 2)

    def pack(self, memory: Memory, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """
        Put memory and open segment into a pair.

        :param memory: Memory of B rows.
        :param tokens: Inputs of the open segment's tokens, (B, L - 1, D).
        :return: The pair, each (1, B, ``hidden_size``).
        """
        integers = th.cat((memory.anchors - EMPTY, memory.position[:, None]), dim=1)  # (B, M + 1)
        parts = (memory.slots.flatten(1), tokens.flatten(1), integers >> 20, integers & (2**20 - 1))
        flat = th.cat([part.float() for part in parts], dim=1)  # (B, sum(sizes))
        padded = th.nn.functional.pad(flat, (0, 2 * self.hidden_size - flat.shape[1]))
        hidden, cell = padded[None].chunk(2, dim=2)
        return hidden, cell

    def unpack(self, pair: Pair, initial_slots: Tensor) -> tuple[Memory, Tensor]:
        """
        Undo :meth:`pack`.

        :param pair: Hidden and cell, each (1, B, ``hidden_size``).
        :param initial_slots: Initial slot vectors, (N, M, D), for rows at an episode's start.
        :return: Memory of B rows, and the open segment's tokens (B, L - 1, D).
        """
        flat = th.cat((pair[0][0], pair[1][0]), dim=1)  # (B, 2 hidden_size)
        slots, tokens, high, low = flat[:, : sum(self.sizes)].split(self.sizes, dim=1)
        integers = (high.long() << 20) + low.long()  # (B, M + 1)
        memory = Memory(
            slots=slots.unflatten(1, (self.n_layers, self.memory_size, self.d_model)),
            anchors=integers[:, :-1] + EMPTY,
            position=integers[:, -1],
        )
        tokens = tokens.unflatten(1, (self.segment_length - 1, self.d_model))
        return reset_memory(memory, initial_slots, memory.position == 0), tokens

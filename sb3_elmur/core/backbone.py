"""From features to latents: the memory core between a Linear and the heads, with its state packed or cached."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.core.cells import make_core
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.elmur import CoreState
from sb3_elmur.core.layer import make_norm
from sb3_elmur.core.memory import Memory, PackedLayout

Pair = tuple[Tensor, ...]  # sb3-contrib's (hidden, cell), each (1, B, hidden_size)


class StateShape(NamedTuple):
    """What ``RecurrentPPO`` reads from ``policy.lstm_actor`` to size its state tensors."""

    num_layers: int
    hidden_size: int


class PolicyState(NamedTuple):
    """
    State of actor and critic with caches, for stepping; the same object twice if they share their backbone.

    :param pi: The actor's.
    :param vf: The critic's.
    """

    pi: CoreState
    vf: CoreState

    def rows(self, index: Tensor) -> "PolicyState":
        """The rows that ``index`` (b,) selects."""
        pi = self.pi.rows(index)
        return PolicyState(pi, pi if self.vf is self.pi else self.vf.rows(index))


class Chains(NamedTuple):
    """
    Chains of consecutive segments to replay; their R tokens are laid out in segment-major order.

    :param pi: The actor's memory before each of the C chains.
    :param vf: The critic's.
    :param lengths: Tokens of each chain, (C,) int64, on the CPU; their numbers of segments do not increase.
    :param counted: (R,), false for tokens that only lead up to the others and have no outputs.
    """

    pi: Memory
    vf: Memory
    lengths: Tensor
    counted: Tensor


class LiveState(NamedTuple):
    """
    State with caches that can also be packed.

    :param state: For stepping.
    :param tokens: Inputs of the open segment's tokens, (B, L, D); others may be anything.
    """

    state: CoreState
    tokens: Tensor


class RememberingPair(tuple[np.ndarray, ...]):
    """
    The pair of arrays that ``predict`` returns, with the state that it was packed from.

    :param arrays: Hidden and cell, each (1, B, hidden_size).
    :param state: The state with caches.
    :param version: Of the weights; equal only while they are the same.
    """

    _state: LiveState
    _version: object
    _packed: tuple[np.ndarray, ...]

    def __new__(cls, arrays: Iterable[np.ndarray], state: LiveState, version: object) -> "RememberingPair":
        pair = super().__new__(cls, arrays)
        pair._state, pair._version = state, version
        pair._packed = tuple(array.copy() for array in pair)
        return pair

    def __reduce__(self) -> tuple[type[tuple], tuple[tuple[np.ndarray, ...]]]:
        return tuple, (tuple(self),)

    def live(self, version: object) -> LiveState | None:
        """The state, if neither arrays nor weights have changed since."""
        same = version == self._version and all(map(np.array_equal, self, self._packed))
        return self._state if same else None


class Backbone(nn.Module):
    """
    Features to latent: Linear, memory core, and a final norm behind a pre-norm ELMUR stack.

    :param features_dim: Width of the features.
    :param config: Hyper-parameters of the core.
    """

    def __init__(self, features_dim: int, config: ElmurConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(features_dim, config.d_model)
        self.core = make_core(config)
        self.norm = make_norm(config) if config.core == "elmur" and config.norm_first else nn.Identity()
        self.layout = PackedLayout(config.n_layers, self.core.initial_slots.shape[1], config.d_model, config.segment_length)

    def forward(
        self, features: Tensor, pair: Pair, episode_starts: Tensor, *, detach_memory: bool, need_state: bool
    ) -> tuple[Tensor, Pair]:
        """
        Run sequences of equal length.

        :param features: (B * T, features_dim), sequence by sequence.
        :param pair: Packed state at the sequences' starts, each (1, B, hidden_size).
        :param episode_starts: (B * T,), 1 where an episode begins.
        :param detach_memory: Stop gradients at segment borders.
        :param need_state: Whether the returned state is used; if not, it is ``pair``.
        :return: Latent (B * T, D), and the packed state after the sequences.
        """
        n_seq = pair[0].shape[1]
        x = self.embed(features).unflatten(0, (n_seq, -1))
        memory, tokens = self.layout.unpack(pair, self.core.initial_slots)
        starts = episode_starts.unflatten(0, (n_seq, -1))
        y, memory, tokens = self.core.unroll(x, memory, tokens, starts, detach_memory=detach_memory, need_state=need_state)
        return self.norm(y.flatten(0, 1)), self.layout.pack(memory, tokens) if need_state else pair

    def step(
        self, features: Tensor, state: CoreState, episode_starts: Tensor, *, inplace: bool = False
    ) -> tuple[Tensor, CoreState]:
        """
        Run one step with cached keys and values.

        :param features: (B, features_dim).
        :param state: Left as it is unless ``inplace``.
        :param episode_starts: (B,), true where an episode begins.
        :return: Latent (B, D), and the state after the step.
        """
        y, state = self.core.step(self.embed(features), state, episode_starts, inplace=inplace)
        return self.norm(y), state

    def replay(self, features: Tensor, memory: Memory, lengths: Tensor, *, need_memory: bool = False) -> tuple[Tensor, Memory]:
        """
        Run chains of consecutive segments.

        :param features: (R, features_dim) in segment-major order, as :meth:`sb3_elmur.core.elmur.Elmur.replay` takes tokens.
        :param memory: Memory before each chain, C rows.
        :param lengths: Tokens of each chain, (C,) int64, on the CPU.
        :param need_memory: Whether the returned memory is used.
        :return: Latent (R, D), and memory after the last segment, of the chains that reach it.
        """
        y, memory = self.core.replay(self.embed(features), memory, lengths, need_memory=need_memory)
        return self.norm(y), memory

    def reopen(self, features: Tensor, memory: Memory, lengths: Tensor) -> CoreState:
        """
        State for :meth:`step` after the beginnings of chains.

        :param features: (B * T, features_dim), row by row; row b has ``lengths[b]`` of them.
        :param memory: Memory before the chains, B rows.
        :param lengths: (B,) int64.
        """
        x = (
            self.embed(features).unflatten(0, (len(lengths), -1))
            if len(features)
            else features.new_zeros(len(lengths), 0, self.core.config.d_model)
        )
        return self.core.reopen(x, memory, lengths)

    def revive(self, pair: Pair) -> LiveState:
        """
        Undo :meth:`pack`; the caches of the open segments are filled in one parallel pass.

        :param pair: Packed state of B rows, each (1, B, hidden_size).
        """
        memory, tokens = self.layout.unpack(pair, self.core.initial_slots)
        longest = int((memory.position % self.core.segment_length).max())
        return LiveState(self.core.open_segment(tokens[:, :longest], memory), F.pad(tokens, (0, 0, 0, 1)))

    def live_step(self, features: Tensor, live: LiveState, episode_starts: Tensor) -> tuple[Tensor, LiveState]:
        """
        As :meth:`step`, for a state that can be packed.

        :param features: (B, features_dim).
        :param live: Left as it is.
        :param episode_starts: (B,), true where an episode begins.
        """
        x = self.embed(features)
        y, state = self.core.step(x, live.state, episode_starts)
        phase = (state.memory.position - 1) % self.core.segment_length
        rows = th.arange(len(x), device=x.device)
        return self.norm(y), LiveState(state, live.tokens.index_put((rows, phase), x))

    def pack(self, live: LiveState) -> Pair:
        """The pair of B rows, each (1, B, hidden_size), that carries memory and open segment."""
        memory, length = live.state.memory, self.core.segment_length
        unused = th.arange(length - 1, device=memory.position.device) >= (memory.position % length)[:, None]
        return self.layout.pack(memory, live.tokens[:, : length - 1].masked_fill(unused[..., None], 0.0))

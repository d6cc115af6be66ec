"""From features to latents: the memory core between a Linear and the heads, with its state packed or cached."""

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.feedforward import Pool
from sb3_elmur.core.memory import Memory
from sb3_elmur.core.registry import make_core
from sb3_elmur.core.states import CoreState, LiveState, PackedLayout, Pair


class Backbone(nn.Module):
    """
    Features to latent: Linear, memory core, and a final norm behind a pre-norm ELMUR stack.

    :param features_dim: Width of the features.
    :param config: Hyper-parameters of the core.
    """

    probe: Tensor  # of :meth:`fingerprint`

    def __init__(self, features_dim: int, config: ElmurConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(features_dim, config.d_model)
        self.core = make_core(config)
        self.norm = self.core.make_final_norm()
        widest = max(part.shape[-1] for part in (*self.core.parameters(), self.core.initial_slots) if part.dim() > 1)
        probe = th.randn(widest, generator=th.Generator().manual_seed(0))
        self.register_buffer("probe", probe, persistent=False)
        self._fingerprint = th.empty(0)
        n_layers, memory_size, _ = self.core.initial_slots.shape
        self.layout = PackedLayout(n_layers, memory_size, config.d_model, config.segment_length)

    def unroll(
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
        x = self.embed(features).unflatten(0, (n_seq, -1))  # (B, T, D)
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

    def replay(
        self, features: Tensor, memory: Memory, lengths: Tensor, *, need_memory: bool = False, pool: Pool | None = None
    ) -> tuple[Tensor, Memory]:
        """
        Run chains of consecutive segments.

        :param features: (R, features_dim) in segment-major order, as :meth:`sb3_elmur.core.base.MemoryCore.replay` takes
            tokens.
        :param memory: Memory before each chain, C rows.
        :param lengths: Tokens of each chain, (C,) int64, on the CPU.
        :param need_memory: Whether the returned memory is used.
        :param pool: See :meth:`sb3_elmur.core.base.MemoryCore.replay`.
        :return: Latent (R, D), and memory after the last segment, of the chains that reach it.
        """
        y, memory = self.core.replay(self.embed(features), memory, lengths, need_memory=need_memory, pool=pool)
        return self.norm(y), memory

    def reopen(self, features: Tensor, memory: Memory, lengths: Tensor) -> CoreState:
        """
        Make a state for :meth:`step` after the beginnings of chains.

        :param features: (B * T, features_dim), row by row; row b has ``lengths[b]`` of them.
        :param memory: Memory before the chains, B rows.
        :param lengths: (B,) int64.
        :return: State of B rows.
        """
        steps = len(features) // len(lengths)
        x = self.embed(features).unflatten(0, (len(lengths), steps))  # (B, T, D)
        return self.core.reopen(x, memory, lengths)

    def revive(self, pair: Pair) -> LiveState:
        """
        Undo :meth:`pack`; the caches of the open segments are filled in one parallel pass.

        :param pair: Packed state of B rows, each (1, B, hidden_size).
        :return: The state with caches.
        """
        memory, tokens = self.layout.unpack(pair, self.core.initial_slots)
        longest = int(memory.phase(self.core.segment_length).max())
        return LiveState(self.core.open_segment(tokens[:, :longest], memory), F.pad(tokens, (0, 0, 0, 1)))

    def live_step(self, features: Tensor, live: LiveState, episode_starts: Tensor) -> tuple[Tensor, LiveState]:
        """
        As :meth:`step`, for a state that can be packed.

        :param features: (B, features_dim).
        :param live: Left as it is.
        :param episode_starts: (B,), true where an episode begins.
        :return: Latent (B, D), and the state after the step.
        """
        x = self.embed(features)
        y, state = self.core.step(x, live.state, episode_starts)
        phase = (state.memory.position - 1) % self.core.segment_length
        rows = th.arange(len(x), device=x.device)
        return self.norm(y), LiveState(state, live.tokens.index_put((rows, phase), x))

    def pack(self, live: LiveState) -> Pair:
        """The pair of B rows, each (1, B, hidden_size), that carries memory and open segment."""
        memory, length = live.state.memory, self.core.segment_length
        unused = th.arange(length - 1, device=memory.position.device) >= memory.phase(length)[:, None]
        return self.layout.pack(memory, live.tokens[:, : length - 1].masked_fill(unused[..., None], 0.0))

    @th.no_grad()
    def fingerprint(self) -> Tensor:
        """
        Tell whether caches are still valid, by what the core's weights make of a fixed random vector.

        Versions of tensors would be cheaper, but miss fused optimisers and what is written through ``.data``.

        :return: One vector; the same object as long as the weights are the same, to rounding.
        """
        parts = (*self.core.parameters(), self.core.initial_slots)
        probes = {width: self.probe[:width] for width in {part.shape[-1] for part in parts if part.dim() > 1}}
        products = [part @ probes[part.shape[-1]] if part.dim() > 1 else part for part in parts]
        present = th.cat([product.flatten() for product in products])
        if present.device != self._fingerprint.device or not th.equal(present, self._fingerprint):
            self._fingerprint = present
        return self._fingerprint

"""
ELMUR: External Layer Memory with Update/Rewrite (arXiv 2510.07151), in plain PyTorch.

A transformer whose every layer owns M memory slots that outlive the attention window. A trajectory is cut into segments of
L steps. Within a segment, tokens attend to earlier tokens of the segment and *read* the slots (the paper's mem2tok). After a
segment's last token, one slot, the least recently written, is *written* from the segment's tokens (tok2mem); the next
segment reads the new memory.

Several ways to run the stack give the same numbers: :meth:`Elmur.segment` (one segment of a batch in parallel),
:meth:`Elmur.step` (one token at a time, with cached keys and values), :meth:`Elmur.unroll` (sequences that begin anywhere in
a segment and may contain episode starts) and :meth:`Elmur.replay` (chains of segments).

References: Transformer-XL (arXiv 1901.02860) for the relative positions, DeepSeekMoE (arXiv 2401.06066) for the experts.

:class:`MemoryCore` is what the stack shares with the recurrent cells of :mod:`sb3_elmur.core.cells`.

Axis letters: B batch, T tokens, N layers, M slots, D width, H heads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.core.attention import sinusoids
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.feedforward import MixtureOfExperts, RouterLoad, attach_gradient
from sb3_elmur.core.layer import ElmurLayer, LayerCache, LayerConstants
from sb3_elmur.core.memory import EMPTY, Memory, fresh_memory, least_recently_written, write_slot
from sb3_elmur.core.unroll import RunSegment, advance, replay, unroll

_MANY_SLOTS = 32  # from here on, looking for slots that all rows share pays


@runtime_checkable
class CoreState(Protocol):
    """What :meth:`MemoryCore.step` needs: memory, and whatever a core keeps within a segment."""

    @property
    def memory(self) -> Memory:
        """Memory of B rows."""

    def rows(self, index: Tensor) -> "CoreState":
        """The rows that ``index`` (b,) selects."""


class MemoryCore(nn.Module, ABC):
    """
    A sequence model whose memory changes once per segment of L steps, at its end.

    :meth:`segment` and :meth:`step` are two ways to run the same thing; the base class builds the others from them.

    :param config: Its hyper-parameters.
    """

    aux_loss: Tensor | None = None  # load-balancing loss of the last training pass, before its coefficient
    initial_slots: Tensor  # slots at an episode's start, (N, M, D)

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def segment_length(self) -> int:
        """Steps per segment (L)."""
        return self.config.segment_length

    def initial_memory(self, batch: int) -> Memory:
        """Memory of ``batch`` episodes that are about to begin."""
        return fresh_memory(self.initial_slots, batch)

    def initial_state(self, batch: int) -> CoreState:
        """State of ``batch`` episodes that are about to begin, for :meth:`step`."""
        no_tokens = self.initial_slots.new_zeros(batch, 0, self.config.d_model)
        return self.open_segment(no_tokens, self.initial_memory(batch))

    @abstractmethod
    def segment(self, x: Tensor, memory: Memory, lengths: Tensor, *, write: bool = True) -> tuple[Tensor, Memory]:
        """
        Run one segment from its start, all tokens in parallel.

        :param x: Tokens, (B, T, D) with T at most L.
        :param memory: Memory before the segment. A ``position`` inside a segment counts as that segment's start.
        :param lengths: Real tokens per row, (B,) int64, at most T. Rows with L of them write memory,
            rows with none stay as they are. On the CPU, they need not be waited for.
        :param write: False saves the write where the memory after the segment is not used.
        :return: Outputs (B, T, D), and memory after the segment.
        """

    @abstractmethod
    def open_segment(self, x: Tensor, memory: Memory) -> CoreState:
        """
        State for stepping on from within a segment, in one parallel pass.

        :param x: Inputs of the open segment's earlier tokens, (B, T, D), T less than L; row b uses the first
            ``memory.position[b] % L`` of them.
        :param memory: Memory at this point of time, equal to that at the segment's start.
        """

    @abstractmethod
    def step(self, x: Tensor, state: Any, episode_starts: Tensor, *, inplace: bool = False) -> tuple[Tensor, CoreState]:
        """
        Run one token per row, whatever the phases of the rows. Nothing that earlier steps computed is computed again.

        :param x: Tokens, (B, D).
        :param state: State before the step, left as it is unless ``inplace``. It becomes stale when the weights change:
            rebuild it with :meth:`open_segment`.
        :param episode_starts: (B,), true for rows whose episode begins with this token.
        :param inplace: Whether the new state may be written into the tensors of ``state``, without copies or gradients.
        :return: Outputs (B, D), and the state after the step.
        """

    def unroll(
        self, x: Tensor, memory: Memory, tokens: Tensor, episode_starts: Tensor, *, detach_memory: bool, need_state: bool
    ) -> tuple[Tensor, Memory, Tensor]:
        """
        Run sequences that begin at any phase of a segment and may contain episode starts.

        :param x: Tokens, (B, T, D).
        :param memory: Memory before the first token.
        :param tokens: Inputs of the open segment's earlier tokens, (B, L - 1, D); row b uses the first
            ``memory.position[b] % L`` of them.
        :param episode_starts: (B, T), true where an episode begins.
        :param detach_memory: Stop gradients at segment borders (the paper's setting).
        :param need_state: Whether the state after the last token is used; otherwise a last write is saved.
        :return: Outputs (B, T, D), memory and open tokens after the last token.
        """
        run_segment, finish = self._begin_pass()
        y, memory, tokens = unroll(
            run_segment,
            self.segment_length,
            self.initial_slots,
            x,
            memory,
            tokens,
            episode_starts,
            detach_memory=detach_memory,
            need_state=need_state,
        )
        return finish(y), memory, tokens

    def replay(self, x: Tensor, memory: Memory, lengths: Tensor, *, need_memory: bool = False) -> tuple[Tensor, Memory]:
        """
        Run chains of consecutive segments, with gradients through their memory; see :func:`sb3_elmur.core.unroll.replay`.

        :param x: Tokens of C chains in segment-major order, (R, D).
        :param memory: Memory before each chain, C rows.
        :param lengths: Tokens of each chain, (C,) int64, on the CPU; their numbers of segments do not increase.
        :param need_memory: Whether the returned memory is used; otherwise the last write is saved.
        :return: Outputs, (R, D), and memory after the last segment, of the chains that reach it.
        """
        run_segment, finish = self._begin_pass()
        y, memory = replay(run_segment, self.segment_length, x, memory, lengths, need_memory)
        return finish(y), memory

    def reopen(self, x: Tensor, memory: Memory, lengths: Tensor) -> CoreState:
        """
        State for :meth:`step` after the beginnings of chains, all in one batched pass.

        :param x: Tokens, (B, T, D), of which row b has ``lengths[b]``.
        :param memory: Memory before the tokens, at a segment's start.
        :param lengths: (B,) int64.
        """
        tokens = x.new_zeros(len(x), self.segment_length - 1, x.shape[2])
        if x.shape[1]:
            _, memory, tokens = advance(self.segment, self.segment_length, x, memory, tokens, lengths, True, True)
        return self.open_segment(tokens, memory)

    def _begin_pass(self) -> tuple[RunSegment, Callable[[Tensor], Tensor]]:
        """What runs each segment of a pass over several, and what its outputs go through at the end."""
        return self.segment, lambda y: y


class ElmurState(NamedTuple):
    """
    Memory and caches of an ELMUR stack.

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


class Elmur(MemoryCore):
    """
    A stack of ELMUR layers; without slots (``memory_size=0``) a plain transformer over each segment.

    In training mode :meth:`unroll` and :meth:`replay` attach the load-balancing loss of a mixture of experts to the
    gradient of their outputs.

    :param config: Its hyper-parameters.
    """

    sinusoids: Tensor
    distance: Tensor  # from each step of a segment back to each other, (L, L); L for later ones

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__(config)
        head = (config.n_heads, config.d_model // config.n_heads)
        self.content_bias = nn.Parameter(th.zeros(head))
        self.distance_bias = nn.Parameter(th.zeros(head))
        self.layers = cast("Sequence[ElmurLayer]", nn.ModuleList(ElmurLayer(config) for _ in range(config.n_layers)))
        slots = config.memory_init_std * th.randn(config.n_layers, config.memory_size, config.d_model)
        self.register_buffer("initial_slots", slots)
        self.register_buffer("sinusoids", sinusoids(config.segment_length, config.d_model), persistent=False)
        step = th.arange(config.segment_length)
        distance = step[:, None] - step
        self.register_buffer("distance", distance.where(distance >= 0, config.segment_length), persistent=False)
        # Not bound to this instance, so that a copy runs its own weights.
        self._run_track, self._run_step = Elmur._token_track, Elmur._token_step
        if config.compile:
            self._run_track = th.compile(Elmur._token_track, dynamic=True)
            # A step is so short that the launches in Python would take half of its time.
            self._run_step = th.compile(Elmur._token_step, options={"cpp_wrapper": True})

    def segment(
        self, x: Tensor, memory: Memory, lengths: Tensor, *, write: bool = True, load: RouterLoad | None = None
    ) -> tuple[Tensor, Memory]:
        """
        See :meth:`MemoryCore.segment`.

        :param load: Where to record router choices.
        """
        start = memory._replace(position=memory.position - memory.position % self.segment_length)
        full = (lengths == self.segment_length).nonzero().squeeze(1).to(x.device, non_blocking=True)
        lengths = lengths.to(x.device, non_blocking=True)
        real = th.arange(x.shape[1], device=x.device) < lengths[:, None] if load is not None else None
        tracks = self._run_track(self, x, start, self._n_own(memory), load, real)
        after = start
        if write and self.config.memory_size and len(full):
            after, _ = self._write(start, full, [output[full] for _, output in tracks], load)
        position = th.where(lengths > 0, start.position + lengths, memory.position)
        return tracks[-1][1], after._replace(position=position)

    def open_segment(self, x: Tensor, memory: Memory) -> ElmurState:
        """See :meth:`MemoryCore.open_segment`; fills the caches."""
        start = memory._replace(position=memory.position - memory.position % self.segment_length)
        rest = (0, 0, 0, self.segment_length - x.shape[1])
        biases = (self.content_bias, self.distance_bias)
        tracks = self._run_track(self, x, start, self._n_own(memory))
        caches, constants = [], []
        for n, (layer, (keys_values, _)) in enumerate(zip(self.layers, tracks, strict=True)):
            caches.append(LayerCache(F.pad(keys_values.transpose(1, 2), rest), *layer.project_heads(memory.slots[:, n])))
            fresh = layer.project_heads(self.initial_slots[n])
            constants.append(LayerConstants(*fresh, *layer.attention.projection(self.sinusoids, biases)))
        memory = Memory(*(field.clone() for field in memory))
        outputs = F.pad(th.stack([output for _, output in tracks], dim=1), rest)
        return ElmurState(memory, outputs, tuple(caches), tuple(constants))

    def step(
        self, x: Tensor, state: ElmurState, episode_starts: Tensor, *, inplace: bool = False
    ) -> tuple[Tensor, ElmurState]:
        """See :meth:`MemoryCore.step`."""
        state = self._begin_episodes(state, episode_starts, inplace)
        full = ((state.memory.position + 1) % self.segment_length == 0).nonzero().squeeze(1)
        x, state = self._run_step(self, x, state, inplace)
        if self.config.memory_size and len(full):
            state = self._write_step(state, full, inplace)
        return x, state._replace(memory=state.memory._replace(position=state.memory.position + 1))

    def _token_step(self, x: Tensor, state: ElmurState, inplace: bool) -> tuple[Tensor, ElmurState]:
        """The token track of one token per row, without what happens at a segment's or an episode's end."""
        put = Tensor.index_put_ if inplace else Tensor.index_put
        memory = state.memory
        phase = memory.position % self.segment_length
        rows, heads = (th.arange(n, device=x.device)[:, None] for n in (len(x), self.config.n_heads))
        place = (rows, heads.T, phase[:, None])
        distance = self.distance[phase]
        read_index = self._bias_index(memory.position[:, None] - memory.anchors)
        outputs, caches = [], []
        for layer, cache, constants in zip(self.layers, state.caches, state.constants, strict=True):
            x, cache = layer.step(x, cache, constants, place, distance, read_index, put)
            outputs.append(x)
            caches.append(cache)
        layers = th.arange(len(outputs), device=x.device)
        stored = put(state.outputs, (rows, layers, phase[:, None]), th.stack(outputs, dim=1))
        return x, state._replace(outputs=stored, caches=tuple(caches))

    def _write_step(self, state: ElmurState, full: Tensor, inplace: bool) -> ElmurState:
        """Write memory, and cache keys and values of what was written, for the rows ``full`` (b,)."""
        put = Tensor.index_put_ if inplace else Tensor.index_put
        memory, slot = self._write(state.memory, full, state.outputs[full].unbind(1), inplace=inplace)
        heads = th.arange(self.config.n_heads, device=full.device)
        place = (full[:, None], heads, slot[:, None])
        caches = []
        for n, (layer, cache) in enumerate(zip(self.layers, state.caches, strict=True)):
            key, value = layer.project_heads(memory.slots[full, n, slot][:, None])
            cache = cache._replace(
                slot_keys=put(cache.slot_keys, place, key[:, :, 0]), slot_values=put(cache.slot_values, place, value[:, :, 0])
            )
            caches.append(cache)
        return state._replace(memory=memory, caches=tuple(caches))

    def _begin_pass(self) -> tuple[RunSegment, Callable[[Tensor], Tensor]]:
        load = self._router_load()
        return partial(self.segment, load=load), partial(self._balanced, load=load)

    def _router_load(self) -> RouterLoad | None:
        balanced = self.training and th.is_grad_enabled() and self.config.ffn == "moe" and self.config.aux_loss_coef > 0
        return RouterLoad(m for m in self.modules() if isinstance(m, MixtureOfExperts)) if balanced else None

    def _balanced(self, y: Tensor, load: RouterLoad | None) -> Tensor:
        """``y``, through which a backward pass also balances the experts."""
        if load is None:
            return y
        aux_loss = load.loss()
        self.aux_loss = aux_loss.detach()
        return attach_gradient(y, self.config.aux_loss_coef * aux_loss)

    def _token_track(
        self, x: Tensor, memory: Memory, n_own: int, load: RouterLoad | None = None, real: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Every layer's keys and values (B, T, H, 2 D / H) and outputs (B, T, D) for the first T tokens of a segment."""
        time = memory.position[:, None] + th.arange(x.shape[1], device=x.device)
        # the slots behind `n_own` are empty, so one anchor stands for all of them
        read_index = self._bias_index(time[:, :, None] - memory.anchors[:, None, : n_own + 1])
        distance = self.distance[: x.shape[1], : x.shape[1]]
        biases = (self.content_bias, self.distance_bias)
        tracks = []
        for n, layer in enumerate(self.layers):
            projection = layer.attention.projection(self.sinusoids, biases)
            q, keys_values, scores = layer.attention.split(F.linear(layer.around_attention.before(x), *projection))
            x = layer.around_attention.after(x, layer.attention(q, keys_values, scores, distance))
            own, initial = memory.slots[:, n, :n_own], self.initial_slots[n, n_own:]
            x = layer.read_and_feed(x, own, initial, read_index, load, real)
            tracks.append((keys_values, x))
        return tracks

    def _write(
        self,
        memory: Memory,
        rows: Tensor,
        outputs: Sequence[Tensor],
        load: RouterLoad | None = None,
        inplace: bool = False,
    ) -> tuple[Memory, Tensor]:
        """
        Write one slot of the rows whose segment is complete.

        :param memory: Memory of all B rows.
        :param rows: (b,) int64.
        :param outputs: Every layer's outputs for the complete segments, N tensors (b, L, D).
        :return: The new memory, and the slot that each of the rows wrote, (b,) int64.
        """
        anchors = memory.anchors[rows]
        slot, empty = least_recently_written(anchors)
        start = memory.position[rows] - memory.position[rows] % self.segment_length
        time = start[:, None] + th.arange(self.segment_length, device=rows.device)
        write_index = self._bias_index(anchors.gather(1, slot[:, None])[:, :, None] - time[:, None, :])
        old = memory.slots[rows, :, slot]  # (b, N, D)
        content = [
            layer.rewrite(old[:, n, None], self.initial_slots[n, slot][:, None], empty, output, write_index, load)
            for n, (layer, output) in enumerate(zip(self.layers, outputs, strict=True))
        ]
        return write_slot(memory, rows, slot, th.cat(content, dim=1), time[:, -1], inplace=inplace), slot

    def _begin_episodes(self, state: ElmurState, episode_starts: Tensor, inplace: bool) -> ElmurState:
        rows = episode_starts.nonzero().squeeze(1)
        if not len(rows):
            return state
        put = Tensor.index_put_ if inplace else Tensor.index_put
        fresh = self.initial_memory(len(rows))
        memory = Memory(*(put(old, (rows,), new) for old, new in zip(state.memory, fresh, strict=True)))
        caches = tuple(
            cache._replace(
                slot_keys=put(cache.slot_keys, (rows,), constants.slot_keys),
                slot_values=put(cache.slot_values, (rows,), constants.slot_values),
            )
            for cache, constants in zip(state.caches, state.constants, strict=True)
        )
        return state._replace(memory=memory, caches=caches)

    def _n_own(self, memory: Memory) -> int:
        """The number of slots after which all rows hold the initial slots, if these are many enough to gain from it."""
        n_slots = self.config.memory_size
        if n_slots < _MANY_SLOTS or self.config.compile:  # which would compile anew for each number
            return n_slots
        written = (memory.anchors != EMPTY).any(dim=0).nonzero()
        n_own = int(written.max()) + 1 if len(written) else 0
        rest = self.initial_slots[:, n_own:].expand(len(memory.slots), -1, -1, -1)
        return n_own if n_own <= n_slots // 2 and th.equal(memory.slots[:, :, n_own:], rest) else n_slots

    def _bias_index(self, distance: Tensor) -> Tensor:
        """Rows of the relative bias table for distances in steps."""
        reach = self.config.max_distance - 1
        return distance.clamp(-reach, reach) + reach

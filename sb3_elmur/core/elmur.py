"""
ELMUR: External Layer Memory with Update/Rewrite (arXiv 2510.07151), in plain PyTorch.

A transformer whose every layer owns M memory slots that outlive the attention window. A trajectory is cut into segments of
L steps. Within a segment, tokens attend to earlier tokens of the segment and *read* the slots (the paper's mem2tok). After a
segment's last token, one slot, the least recently written, is *written* from the segment's tokens (tok2mem); the next
segment reads the new memory.

Several ways to run the stack give the same numbers: :meth:`Elmur.segment` (one segment of a batch in parallel),
:meth:`Elmur.step` (one token at a time, with cached keys and values), and those that :mod:`sb3_elmur.core.base` builds from
them: ``unroll`` (sequences that begin anywhere in a segment and may contain episode starts) and ``replay`` (chains of
segments).

References: Transformer-XL (arXiv 1901.02860) for the relative positions, DeepSeekMoE (arXiv 2401.06066) for the experts.

Axis letters: B batch, T tokens, N layers, M slots, D width, H heads.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_elmur.core.attention import sinusoids
from sb3_elmur.core.base import MemoryCore
from sb3_elmur.core.config import ElmurConfig, check_heads
from sb3_elmur.core.feedforward import MixtureOfExperts, Pool, RouterLoad, attach_gradient
from sb3_elmur.core.layer import ElmurLayer, SegmentInputs, WriteArguments, make_norm
from sb3_elmur.core.memory import Memory, least_recently_written, write_slot
from sb3_elmur.core.schedule import Schedule, make_schedule
from sb3_elmur.core.states import ElmurState, LayerCache, LayerConstants

LONGEST_SEGMENT = 2**13  # whose table of distances has half a gigabyte
_MANY_SLOTS = 32  # from here on, looking for slots that all rows share pays
_STEP_OPTIONS: dict[str, Any] = {"cpp_wrapper": True}  # a step is so short that launches in Python would take half of its time


class Compiled:
    """
    A compiled function. Copies share it, and a pickle has the function itself: where it is read there may be no compiler.

    :param function: Of a module.
    :param options: Of ``torch.compile``.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.function, self.run = function, th.compile(function, **options)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self.run(*arguments)

    def __deepcopy__(self, memo: dict) -> "Compiled":
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _same, (self.function,)


def _same(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class Elmur(MemoryCore):
    """
    A stack of ELMUR layers; without slots (``memory_size=0``) a plain transformer over each segment.

    In training mode ``unroll`` and ``replay`` attach the load-balancing loss of a mixture of experts to the gradient of their
    outputs.

    :param config: Its hyper-parameters.
    :raises ValueError: If segments are too long for self-attention, whose memory grows with their square.
    """

    choose_slot: Callable[[Tensor], tuple[Tensor, Tensor]]  # least_recently_written, unless an ablation sets another
    sinusoids: Tensor
    distance: Tensor  # from each step of a segment back to each other, (L, L); L for later ones
    _run_tracks: Callable[..., Any]
    _run_step: Callable[..., Any]
    _run_rollout_step: Callable[..., Any]

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__(config)
        if config.segment_length > LONGEST_SEGMENT:
            raise ValueError(
                f"`segment_length` must be an integer of at most {LONGEST_SEGMENT}, since self-attention relates each two of "
                f"its steps. Received {config.segment_length}."
            )
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
        self.choose_slot = least_recently_written
        self.run_eagerly()
        if config.compile is True:
            self._run_tracks = Compiled(Elmur._tracks, dynamic=True)
            self._run_step = self._run_rollout_step = Compiled(Elmur.token_step, options=_STEP_OPTIONS)

    @classmethod
    def check(cls, config: ElmurConfig) -> None:
        """See :meth:`sb3_elmur.core.base.MemoryCore.check`."""
        check_heads(config)

    def make_final_norm(self) -> nn.Module:
        """See :meth:`sb3_elmur.core.base.MemoryCore.make_final_norm`: a norm behind a pre-norm stack."""
        return make_norm(self.config) if self.config.norm_first else nn.Identity()

    def run_eagerly(self) -> None:
        """Undo ``compile``, where so few steps are left that compilation would take longer."""
        # Not bound to this instance, so that a copy runs its own weights.
        self._run_tracks = Elmur._tracks
        self._run_step = self._run_rollout_step = Elmur.token_step

    @th.no_grad()
    def compile_rollout_step(self, batch: int) -> None:
        """Compile steps of ``batch`` rows that update their state in place."""
        self._run_rollout_step = Compiled(Elmur.token_step, dynamic=False, options=_STEP_OPTIONS)
        x, memory = self.initial_slots.new_zeros(batch, self.config.d_model), self.initial_memory(batch)
        state = self.open_segment(x[:, None].expand(-1, self.segment_length - 1, -1), memory)  # as a rollout begins
        self.step(x, state, memory.position, inplace=True)

    def segment(
        self, x: Tensor, memory: Memory, lengths: Tensor, *, write: bool = True, load: RouterLoad | None = None
    ) -> tuple[Tensor, Memory]:
        """See :meth:`sb3_elmur.core.base.MemoryCore.segment`."""
        return self.segments(x, memory, lengths, (len(x),), write=write, load=load)

    def segments(
        self,
        x: Tensor,
        memory: Memory,
        lengths: Tensor,
        counts: Sequence[int],
        *,
        write: bool = True,
        load: RouterLoad | None = None,
    ) -> tuple[Tensor, Memory]:
        """See :meth:`sb3_elmur.core.base.MemoryCore.segments`; each layer runs all segments before the next layer does."""
        schedule = make_schedule(
            memory, lengths, counts, self.segment_length, self.choose_slot, write and self.config.memory_size > 0
        )
        lengths = lengths.to(x.device, non_blocking=True)
        real = th.arange(x.shape[1], device=x.device) < lengths[:, None] if load is not None else None
        # others would be compiled anew for each number of segments, and of rows that write
        run = self._run_tracks if schedule.writes == (None,) else Elmur._tracks
        tracks, slots = run(self, x, memory, schedule, self.count_own(memory, schedule.written), load, real)
        last = slice(len(x) - counts[-1], None)
        position = th.where(lengths[last] > 0, schedule.start[last] + lengths[last], memory.position[: counts[-1]])
        return tracks[-1][1], Memory(slots, schedule.after, position)

    def open_segment(self, x: Tensor, memory: Memory) -> ElmurState:
        """See :meth:`sb3_elmur.core.base.MemoryCore.open_segment`; fills the caches."""
        rest = (0, 0, 0, self.segment_length - x.shape[1])
        biases = (self.content_bias, self.distance_bias)
        schedule = make_schedule(
            memory, memory.phase(self.segment_length), (len(x),), self.segment_length, self.choose_slot, write=False
        )
        tracks, _ = self._run_tracks(self, x, memory, schedule, self.count_own(memory, schedule.written))
        caches, constants = [], []
        for n, (layer, (keys_values, _)) in enumerate(zip(self.layers, tracks, strict=True)):
            keys_values = F.pad(keys_values.transpose(1, 2), rest)  # (B, H, L, 2 D / H)
            caches.append(LayerCache(keys_values, *layer.slot_keys_values(memory.slots[:, n])))
            fresh = layer.slot_keys_values(self.initial_slots[n])
            projection = layer.attention.projection(self.sinusoids, biases)
            constants.append(LayerConstants(*fresh, *projection, *layer.write_maps()))
        memory = Memory(*(field.clone() for field in memory))
        outputs = F.pad(th.stack([output for _, output in tracks], dim=1), rest)
        return ElmurState(memory, outputs, tuple(caches), tuple(constants))

    def step(
        self, x: Tensor, state: ElmurState, episode_starts: Tensor, *, inplace: bool = False
    ) -> tuple[Tensor, ElmurState]:
        """See :meth:`sb3_elmur.core.base.MemoryCore.step`."""
        state = self._begin_episodes(state, episode_starts, inplace)
        full = ((state.memory.position + 1) % self.segment_length == 0).nonzero().squeeze(1)
        run = self._run_rollout_step if inplace else self._run_step
        x, state = run(self, x, state, inplace)
        if self.config.memory_size and len(full):
            state = self.write_step(state, full, inplace)
        return x, state._replace(memory=state.memory._replace(position=state.memory.position + 1))

    def token_step(self, x: Tensor, state: ElmurState, inplace: bool) -> tuple[Tensor, ElmurState]:
        """The token track of one token per row, without what happens at a segment's or an episode's end."""
        put = Tensor.index_put_ if inplace else Tensor.index_put
        memory = state.memory
        phase = memory.phase(self.segment_length)
        rows, heads = (th.arange(n, device=x.device)[:, None] for n in (x.shape[0], self.config.n_heads))
        place = (rows, heads.T, phase[:, None])
        distance = self.distance[phase][:, None].expand(-1, self.config.n_heads, -1)
        read_index = self._bias_index(memory.position[:, None] - memory.anchors)[:, None]
        outputs, caches = [], []
        for layer, cache, constants in zip(self.layers, state.caches, state.constants, strict=True):
            x, cache = layer.step(x, cache, constants, place, distance, read_index, put)
            outputs.append(x)
            caches.append(cache)
        layers = th.arange(len(outputs), device=x.device)
        stored = put(state.outputs, (rows, layers, phase[:, None]), th.stack(outputs, dim=1))
        return x, state._replace(outputs=stored, caches=tuple(caches))

    def write_step(self, state: ElmurState, full: Tensor, inplace: bool) -> ElmurState:
        """Write memory, and cache keys and values of what was written, for the rows ``full`` (b,)."""
        put = Tensor.index_put_ if inplace else Tensor.index_put
        memory, length = state.memory, self.segment_length
        anchors, start = memory.anchors[full], memory.segment_start(length)[full]
        slot, empty = self.choose_slot(anchors)
        write_index = self._write_index(start, anchors.gather(1, slot[:, None]).squeeze(1))
        old = memory.slots[full, :, slot]  # (b, N, D)
        heads = th.arange(self.config.n_heads, device=full.device)
        place = (full[:, None], heads, slot[:, None])
        contents, caches = [], []
        for n, (layer, cache, constants) in enumerate(zip(self.layers, state.caches, state.constants, strict=True)):
            bias, maps = layer.bias(write_index).squeeze(2), (constants.to_query, constants.to_output)
            write = WriteArguments(empty, self.initial_slots[n, slot], None, bias, maps)
            content = layer.rewrite(old[:, n], state.outputs[full, n], write)
            contents.append(content)
            key, value = layer.slot_keys_values(content[:, None])  # each (b, H, 1, D / H)
            cache = cache._replace(
                slot_keys=put(cache.slot_keys, place, key[:, :, 0]), slot_values=put(cache.slot_values, place, value[:, :, 0])
            )
            caches.append(cache)
        memory = write_slot(memory, full, slot, th.stack(contents, dim=1), start + length - 1, inplace=inplace)
        return state._replace(memory=memory, caches=tuple(caches))

    def begin_pass(self) -> RouterLoad | None:
        """See :meth:`sb3_elmur.core.base.MemoryCore.begin_pass`."""
        balanced = self.training and th.is_grad_enabled() and self.config.ffn == "moe" and self.config.aux_loss_coef > 0
        return RouterLoad(m for m in self.modules() if isinstance(m, MixtureOfExperts)) if balanced else None

    def end_pass(self, y: Tensor, load: RouterLoad | None, pool: Pool | None = None) -> Tensor:
        """See :meth:`sb3_elmur.core.base.MemoryCore.end_pass`: a backward pass also balances the experts."""
        if load is None:
            return y
        aux_loss = load.loss(pool)
        self.aux_loss = aux_loss.detach()
        return attach_gradient(y, self.config.aux_loss_coef * aux_loss)

    def _tracks(
        self,
        x: Tensor,
        memory: Memory,
        schedule: Schedule,
        own: int,
        load: RouterLoad | None = None,
        real: Tensor | None = None,
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """
        Run chains of segments, layer by layer; with ``own`` slots of each row, see :meth:`count_own`.

        :return: Every layer's keys and values (P, T, H, 2 D / H) and outputs (P, T, D), and the slots after the last segment.
        """
        time = schedule.start[:, None] + th.arange(x.shape[1], device=x.device)
        # the slots behind `own` are empty, so one anchor stands for all of them
        read_index = self._bias_index(time[:, :, None] - schedule.anchors[:, None, : own + 1])
        distance = self.distance[: x.shape[1], : x.shape[1]]
        chains = SegmentInputs(
            schedule.counts,
            schedule.writes,
            own,
            distance,
            read_index,
            self._write_index(schedule.write_start, schedule.write_anchors),
            load,
            real,
        )
        biases = (self.content_bias, self.distance_bias)
        tracks, after = [], []
        for n, layer in enumerate(self.layers):
            projection = layer.attention.projection(self.sinusoids, biases)
            x, keys_values, slots = layer.segments(x, memory.slots[:, n, :own], self.initial_slots[n], projection, chains)
            tracks.append((keys_values, x))
            after.append(slots)
        slots = memory.slots[: schedule.counts[-1]]
        if any(schedule.writes):
            slots = (
                th.cat((th.stack(after, dim=1), slots[:, :, own:]), dim=2) if own < slots.shape[2] else th.stack(after, dim=1)
            )
        return tracks, slots

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

    def count_own(self, memory: Memory, written: Tensor) -> int:
        """
        Count the slots after which all rows hold the initial slots, if these are many enough to gain from it.

        :param memory: Memory of C rows.
        :param written: Slots that any row has written, or will have before the last segment ends, (M,) bool.
        :return: How many slots of each row are its own, M at most; see :class:`sb3_elmur.core.layer.SegmentInputs`.
        """
        n_slots = self.config.memory_size
        if n_slots < _MANY_SLOTS or self.config.compile is True:  # which would compile anew for each number
            return n_slots
        own = written.nonzero()
        n_own = int(own.max()) + 1 if len(own) else 0
        rest = self.initial_slots[:, n_own:].expand(len(memory.slots), -1, -1, -1)
        return n_own if n_own <= n_slots // 2 and th.equal(memory.slots[:, :, n_own:], rest) else n_slots

    def _write_index(self, start: Tensor, anchors: Tensor) -> Tensor:
        """Rows of the relative bias table for writes (W, 1, L): from slots with these anchors (W,) to segments (W,)."""
        time = start[:, None, None] + th.arange(self.segment_length, device=start.device)
        return self._bias_index(anchors[:, None, None] - time)

    def _bias_index(self, distance: Tensor) -> Tensor:
        """Rows of the relative bias table for distances in steps."""
        reach = self.config.max_distance - 1
        return distance.clamp(-reach, reach) + reach

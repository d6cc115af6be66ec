"""Checks of a memory of your own: :func:`check_core` is to memories what ``check_env`` is to environments."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch as th
from torch import Tensor

from sb3_elmur.core.base import MemoryCore
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.recurrent import RecurrentCore
from sb3_elmur.core.registry import make_core

_TOLERANCE = 1e-9  # in float64
_SMALL = {"d_model": 8, "n_heads": 2, "segment_length": 3}
_ROWS, _SEGMENTS = 3, 3
_SEED = 0


def check_core(core: str | type, **arguments: Any) -> None:
    """
    Check that a memory can be trained: that all ways to run it give the same numbers, and that rows and calls share nothing.

    :param core: A name, a class or its path, as the policy's ``core``.
    :param arguments: Further fields of :class:`sb3_elmur.core.config.ElmurConfig`, such as ``core_kwargs``.
    :raises ValueError: With what is wrong, and where to look.
    """
    config = ElmurConfig(core=core, **(_SMALL | arguments))
    with th.random.fork_rng(devices=[]):
        th.manual_seed(_SEED)
        made = _build(config)
        name = type(made).__name__
        x = th.randn(_ROWS, _SEGMENTS * config.segment_length + 1, config.d_model, dtype=th.float64)
        _check_shapes(made, name, x)
        _check_calls(made, name, x)
        _check_rows(made, name, x)
        _check_segments(made, name, x)
        _check_resets(made, name, x)
        _check_chains(made, name, x)
        _check_saving(made, name, x)


def _build(config: ElmurConfig) -> MemoryCore:
    return make_core(config).double().eval()


# Ways to run a core over episodes (B, T, D)


def _step_through(core: MemoryCore, x: Tensor, starts: Tensor | None = None) -> Tensor:
    state, outputs = core.initial_state(len(x)), []
    starts = th.zeros(x.shape[:2]) if starts is None else starts
    for token, start in zip(x.unbind(1), starts.unbind(1), strict=True):
        y, state = core.step(token, state, start)
        outputs.append(y)
    return th.stack(outputs, dim=1)


def _unroll(core: MemoryCore, x: Tensor, starts: Tensor | None = None) -> Tensor:
    tokens = x.new_zeros(len(x), core.segment_length - 1, x.shape[2])
    starts = th.zeros(x.shape[:2]) if starts is None else starts
    return core.unroll(x, core.initial_memory(len(x)), tokens, starts, detach_memory=False, need_state=True)[0]


def _replay(core: MemoryCore, x: Tensor, per_chain: int) -> Tensor:
    """Chains of ``per_chain`` segments, each of which begins with the memory that the one before left."""
    memory, outputs = core.initial_memory(len(x)), []
    for part in x.split(per_chain * core.segment_length, dim=1):
        steps = part.shape[1]
        segments = th.arange(steps).split(core.segment_length)
        order = th.cat([th.cartesian_prod(th.arange(len(x)), segment) for segment in segments])  # segment-major
        rows = part[order[:, 0], order[:, 1]]
        y, memory = core.replay(rows, memory, th.full((len(x),), steps), need_memory=True)
        outputs.append(th.empty_like(part).index_put((order[:, 0], order[:, 1]), y))
    return th.cat(outputs, dim=1)


# Checks, in the order in which their messages are most to the point


def _check_shapes(core: MemoryCore, name: str, x: Tensor) -> None:
    if isinstance(core, RecurrentCore):
        state = core.initial(_ROWS)
        if not isinstance(state, tuple) or not all(
            isinstance(part, Tensor) and part.is_floating_point() and part.shape[:1] == (_ROWS,) for part in state
        ):
            raise ValueError(f"{name}.initial({_ROWS}) must return a tuple of floating tensors of {_ROWS} rows each.")
        if not all(th.equal(part, part[:1].expand_as(part)) for part in state):
            raise ValueError(f"{name}.initial({_ROWS}) must return equal rows: all episodes begin alike.")
        y, after = core.advance(x[:, 0], state)
        shapes = [tuple(part.shape) for part in after]
        if shapes != [tuple(part.shape) for part in state]:
            raise ValueError(f"{name}.advance must return a state of the shapes that `initial` has. Received {shapes}.")
        before = [part.clone() for part in after]
        core.advance(x[:, 1], after)
        core.scan(x[:, 1:3], after)
        if not all(map(th.equal, before, after)):
            raise ValueError(f"{name} changes the state that it is given: look for in-place writes such as `add_`.")
    else:
        y, _ = core.step(x[:, 0], core.initial_state(_ROWS), th.zeros(_ROWS))
    if y.shape != x[:, 0].shape:
        raise ValueError(f"{name} must return outputs of the shape {tuple(x[:, 0].shape)}. Received {tuple(y.shape)}.")


def _check_calls(core: MemoryCore, name: str, x: Tensor) -> None:
    _same(
        _step_through(core, x),
        _step_through(core, x),
        f"{name} gives other outputs when the same episode is run again",
        "look for attributes that a call sets, and for random numbers",
    )


def _check_rows(core: MemoryCore, name: str, x: Tensor) -> None:
    others = x.clone()
    others[1:] = 3.0 - others[1:]
    for way, run in (("steps", _step_through), ("segments", _unroll)):
        _same(
            run(core, x)[:1],
            run(core, others)[:1],
            f"{name} mixes rows: in {way}, row 0 depends on other rows",
            "look for sums, means and norms over the first axis",
        )


def _check_segments(core: MemoryCore, name: str, x: Tensor) -> None:
    _same_with_gradients(
        core, x, _unroll, f"{name} gives other numbers in segments than in steps", "compare `scan` (or `segment`) to one step"
    )


def _check_resets(core: MemoryCore, name: str, x: Tensor) -> None:
    starts = th.zeros(x.shape[:2], dtype=th.bool)
    steps = x.shape[1]
    starts[0, steps // 2], starts[1, steps // 3], starts[1, -1] = True, True, True
    whole = th.zeros_like(x)
    for row in range(len(x)):
        bounds = [0, *starts[row].nonzero().flatten().tolist(), x.shape[1]]
        for begin, end in pairwise(bounds):
            whole[row, begin:end] = _step_through(core, x[row : row + 1, begin:end])[0]
    for way, run in (("steps", _step_through), ("segments", _unroll)):
        _same(
            run(core, x, starts),
            whole,
            f"{name} remembers in {way} what was before an episode's start",
            "look for state outside of what `initial` returns, or at `episode_starts`",
        )


def _check_chains(core: MemoryCore, name: str, x: Tensor) -> None:
    for per_chain in (_SEGMENTS + 1, 1):  # all in one chain, and a chain for each segment, as `bptt_segments` cuts them

        def run(core: MemoryCore, x: Tensor, per_chain: int = per_chain) -> Tensor:
            return _replay(core, x, per_chain)

        what = f"{name} gives other numbers in chains of {per_chain} segment(s) than in steps"
        _same_with_gradients(core, x, run, what, "memory after a segment must hold all that is remembered")


def _check_saving(core: MemoryCore, name: str, x: Tensor) -> None:
    other = _build(core.config)  # of other random numbers
    other.load_state_dict(core.state_dict())
    _same(
        _step_through(core, x),
        _step_through(other, x),
        f"{name} gives other outputs after saving and loading",
        "make weights nn.Parameter or nn.Module, and other random tensors buffers",
    )


def _same_with_gradients(core: MemoryCore, x: Tensor, run: Callable[..., Tensor], what: str, hint: str) -> None:
    x = x.clone().requires_grad_()
    expected, y = _step_through(core, x), run(core, x)
    _same(y, expected, what, hint)
    inputs = dict(core.named_parameters()) | {"the tokens": x}
    for name, ours, other in zip(inputs, _gradients(y, inputs.values()), _gradients(expected, inputs.values()), strict=True):
        _same(ours, other, f"{what}, in the gradient of {name}", "look for `detach`, `no_grad` and `data`")


def _gradients(y: Tensor, inputs: Iterable[Tensor]) -> Sequence[Tensor]:
    weight = th.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return th.autograd.grad((y * weight).sum(), list(inputs), allow_unused=True, materialize_grads=True)


def _same(values: Tensor, expected: Tensor, what: str, hint: str) -> None:
    difference = (values - expected).abs() / (1.0 + expected.abs())
    if not (difference <= _TOLERANCE).all():  # NaN is no small difference
        raise ValueError(f"{what}, by {difference.max().item():.1g}: {hint}.")

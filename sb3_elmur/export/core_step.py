"""
One step of a memory core as a graph: no branch depends on data, and the state is a dictionary of named tensors.

Where an episode begins, every tensor of the state takes its initial value, whatever it held. The initial values are
constants of the graph, so that a user may begin with any tensors of the right shape.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch as th
from torch import Tensor, nn

from sb3_elmur.core.base import MemoryCore
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.memory import by_row
from sb3_elmur.core.states import CoreState, ElmurState

Step = Callable[[Any, Tensor, Any], tuple[Tensor, Any]]


def named_tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """
    Name the tensors of a state by the fields that lead to them.

    :param state: A tensor, or a tuple or ``NamedTuple`` of such.
    :param name: Of the state itself, which begins all names.
    :return: Pairs such as ``caches.0.slot_keys`` and the tensor.
    :raises TypeError: If the state holds anything else.
    """
    if isinstance(state, Tensor):
        yield name, state
        return
    if not isinstance(state, tuple):
        raise TypeError(f"`{name or 'state'}` must be a tensor or a NamedTuple of tensors. Received {type(state).__name__}.")
    fields = getattr(state, "_fields", range(len(state)))
    for field, part in zip(fields, state, strict=True):
        yield from named_tensors(part, f"{name}.{field}" if name else str(field))


def with_tensors(state: Any, tensors: Iterator[Tensor]) -> Any:
    """
    Build a state of the same structure.

    :param state: Whose structure it is.
    :param tensors: In the order of :func:`named_tensors`.
    :return: The state that has them.
    """
    if isinstance(state, Tensor):
        return next(tensors)
    parts = [with_tensors(part, tensors) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def write_complete(core: Elmur, state: ElmurState, complete: Tensor) -> ElmurState:
    """
    Write memory where a segment is complete, as :meth:`sb3_elmur.core.elmur.Elmur.step` does, by a choice for every row.

    :param core: Whose state it is.
    :param state: After the segment's last token, B rows, left as it is.
    :param complete: (B,), true where a segment ends with that token.
    :return: State of B rows.
    """
    written = core.write_step(state, th.arange(complete.shape[0], device=complete.device), inplace=False)
    pairs = zip(named_tensors(written), named_tensors(state), strict=True)
    chosen = (old if new is old else by_row(complete, new, old) for (_, new), (_, old) in pairs)
    return with_tensors(state, chosen)


def elmur_step(core: Elmur, x: Tensor, state: ElmurState) -> tuple[Tensor, ElmurState]:
    """
    Run one token per row, as :meth:`sb3_elmur.core.elmur.Elmur.step` does, where no episode begins.

    The write is a conditional part of the graph, which runs when any row needs it: it costs more than the rest of a step.

    :param core: Whose state it is.
    :param x: Tokens, (B, D).
    :param state: Left as it is.
    :return: Outputs (B, D), and the state after the step.
    """
    y, state = core.token_step(x, state, inplace=False)
    complete = (state.memory.position + 1) % core.segment_length == 0

    def write(*rows: Tensor) -> tuple[Tensor, ...]:
        before = state_of(rows)
        after = write_complete(core, before, complete)
        return tuple(new.clone() if new is old else new for new, old in zip(rows_of(after), rows, strict=True))

    def keep(*rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.clone() for tensor in rows)  # a branch must not return what it was given

    def rows_of(state: ElmurState) -> list[Tensor]:
        return [tensor for _, tensor in named_tensors(state._replace(constants=()))]

    def state_of(rows: Any) -> ElmurState:
        return with_tensors(state._replace(constants=()), iter(rows))._replace(constants=state.constants)

    if core.config.memory_size:
        state = state_of(th.cond(complete.any(), write, keep, tuple(rows_of(state))))
    return y, state._replace(memory=state.memory._replace(position=state.memory.position + 1))


def plain_step(core: MemoryCore, x: Tensor, state: CoreState) -> tuple[Tensor, CoreState]:
    """One token per row by a core's own step, where no episode begins; arguments as :func:`elmur_step`."""
    return core.step(x, state, th.zeros_like(x[:, 0], dtype=th.bool))


class CoreStep(nn.Module):
    """
    One step of a core, from named tensors to named tensors.

    :param core: In evaluation mode. Its state must be made of tuples of tensors, each of which has its rows first, or is
        derived from the weights alone.
    :raises TypeError: If its state is made of anything else.
    """

    def __init__(self, core: MemoryCore) -> None:
        super().__init__()
        self.core = core
        self.run: Step = elmur_step if isinstance(core, Elmur) else plain_step
        with th.no_grad():
            states = [core.initial_state(batch) for batch in (1, 2, 3)]
        self.template: Any = states[0]
        self.initial: dict[str, Tensor] = {}  # of one row each
        self.constants: dict[str, Tensor] = {}
        for (name, one), (_, two), (_, three) in zip(*map(named_tensors, states), strict=True):
            if (one.shape[:1], two.shape[:1], three.shape[:1]) == ((1,), (2,), (3,)):
                self.initial[name] = one.clone()
            elif one.shape == two.shape == three.shape:
                self.constants[name] = one
            else:
                raise TypeError(f"`{name}` of the core's state must have its rows first. Received {tuple(two.shape)} for 2.")

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """The initial state of ``batch`` rows, by name."""
        return {name: tensor.repeat_interleave(batch, dim=0) for name, tensor in self.initial.items()}

    def forward(self, x: Tensor, episode_start: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """
        Run one token per row.

        :param x: Tokens, (B, D).
        :param episode_start: (B,) bool, true where an episode begins.
        :param state: By name, each (B, ...).
        :return: Outputs (B, D), and the state after the step.
        """
        tensors = self.constants | {name: by_row(episode_start, self.initial[name], state[name]) for name in self.initial}
        before = with_tensors(self.template, (tensors[name] for name, _ in named_tensors(self.template)))
        y, after = self.run(self.core, x, before)
        return y, {name: tensor for name, tensor in named_tensors(after) if name in self.initial}

"""check_core passes for what is right, and says what is wrong with what is broken."""

from typing import Any

import pytest
import torch as th
from torch import Tensor, nn

from sb3_elmur.core import ElmurConfig, RecurrentCore
from sb3_elmur.core.config import CORE_NAMES
from sb3_elmur.core.recurrent import State
from sb3_elmur.testing import check_core


class Leaky(RecurrentCore):
    """A sum that fades."""

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__(config)
        self.inner = nn.Linear(config.d_model, config.d_model)

    def initial(self, batch: int) -> State:
        return (self.inner.weight.new_zeros(batch, self.config.d_model),)

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        after = 0.9 * state[0] + self.inner(x).tanh()
        return after, (after,)


class Forgetful(Leaky):
    def scan(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().scan(x, self.initial(len(x)))


class Detaching(Leaky):
    def scan(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().scan(x, (state[0].detach(),))


class Mixing(Leaky):
    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().advance(x - x.mean(0), state)


class Counting(Leaky):
    calls = 0

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        self.calls += 1
        return super().advance(x * self.calls, state)


class InPlace(Leaky):
    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y = state[0].mul_(0.9) + self.inner(x)
        return y, (y,)


class Unregistered(Leaky):
    def __init__(self, config: ElmurConfig) -> None:
        super().__init__(config)
        self.scale = th.rand(())

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().advance(x * self.scale, state)


class Everlasting(Leaky):
    def step(self, x: Tensor, state: Any, episode_starts: Tensor, *, inplace: bool = False) -> tuple[Tensor, Any]:
        return super().step(x, state, th.zeros_like(episode_starts))


class Unwritten(Leaky):
    def replay(self, x: Tensor, memory: Any, lengths: Tensor, **options: Any) -> tuple[Tensor, Any]:
        return super().replay(x, memory, lengths, **options)[0], memory


class Narrow(Leaky):
    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = super().advance(x, state)
        return y[:, :-1], state


@pytest.mark.parametrize("arguments", [{}, {"n_layers": 1, "segment_length": 1}, {"segment_length": 5}], ids=str)
@pytest.mark.parametrize("core", [*CORE_NAMES, Leaky])
def test_right_cores_pass(core: Any, arguments: dict[str, Any]) -> None:
    check_core(core, **arguments)


@pytest.mark.parametrize(
    ("core", "line"),
    [
        (Forgetful, "in segments.*`scan`"),
        (Detaching, "in the gradient of.*`detach`"),
        (Mixing, "mixes rows"),
        (Counting, "run again.*attributes"),
        (InPlace, "changes the state"),
        (Unregistered, "after saving and loading.*buffers"),
        (Everlasting, "before an episode's start"),
        (Unwritten, "in chains of 1"),
        (Narrow, r"outputs of the shape \(3, 8\). Received \(3, 7\)"),
    ],
)
def test_a_broken_core_fails_with_a_line_that_says_where_to_look(core: type, line: str) -> None:
    with pytest.raises(ValueError, match=rf"^{core.__name__}[^\n]*{line}[^\n]*$"):
        check_core(core)


def test_check_core_leaves_the_random_numbers_as_they_are() -> None:
    before = th.get_rng_state()
    check_core(Leaky)
    assert th.equal(before, th.get_rng_state())

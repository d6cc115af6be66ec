"""Recurrent cores of several layers, one above the other, each with a state of its own."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.recurrent import RecurrentCore, State


class RecurrentLayer(nn.Module, ABC):
    """One layer of a :class:`StackedCore`, from tokens to tokens of the same width."""

    @abstractmethod
    def initial(self, batch: int) -> State:
        """See :meth:`sb3_elmur.core.recurrent.RecurrentCore.initial`."""

    @abstractmethod
    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """
        Run several steps.

        :param x: Tokens, (B, T, D).
        :param state: Before the first, left as it is.
        :return: Outputs (B, T, D), and the state after the last.
        """


class StackedCore(RecurrentCore):
    """
    Layers of which each takes the outputs of the one below; the state is theirs, one after the other.

    :param config: Its hyper-parameters.
    :param layers: From the lowest to the highest, all of one class.
    """

    def __init__(self, config: ElmurConfig, layers: Iterable[RecurrentLayer]) -> None:
        super().__init__(config)
        self.layers = cast("Sequence[RecurrentLayer]", nn.ModuleList(layers))

    def initial(self, batch: int) -> State:
        """See :meth:`sb3_elmur.core.recurrent.RecurrentCore.initial`."""
        return tuple(part for layer in self.layers for part in layer.initial(batch))

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`sb3_elmur.core.recurrent.RecurrentCore.advance`."""
        y, state = self.scan(x[:, None], state)
        return y[:, 0], state

    def scan(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`sb3_elmur.core.recurrent.RecurrentCore.scan`."""
        n_parts = len(state) // len(self.layers)
        after: State = ()
        for i, layer in enumerate(self.layers):
            x, parts = layer(x, state[i * n_parts : (i + 1) * n_parts])
            after += parts
        return x, after

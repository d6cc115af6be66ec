"""The T-Maze of runes: what is met on the way changes the cue that is held."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from ..arguments import check_integer
from .config import Action, TMazeConfig
from .env import TMazeEnv
from .render import Scene

N_FIXED = 4  # numbers of an observation before those of the runes
RUNE_REWARDS = ("sparse", "eased")


class Rune(IntEnum):
    """What can happen to the cue that is held."""

    INVERT = 0
    REPEAT = 1
    CANCEL = 2
    REPLACE = 3


class Runes(NamedTuple):
    """
    The runes of an episode, in the order in which they are met.

    :param steps: Step at which each is seen, strictly increasing.
    :param kinds: What each does.
    :param cues: What each shows: a new cue (+1 up, -1 down) for REPLACE, else 0.
    """

    steps: list[int]
    kinds: list[int]
    cues: list[int]

    def apply(self, cue: int) -> int:
        """The cue that is held after all of them, 0 for none; ``cue`` is the one before."""
        for kind, shown in zip(self.kinds, self.cues, strict=True):
            cue = {Rune.INVERT: -cue, Rune.REPEAT: cue, Rune.CANCEL: 0, Rune.REPLACE: shown}[Rune(kind)]
        return cue

    def names(self) -> tuple[str, ...]:
        """What each is called in pictures."""
        return tuple(
            Rune(kind).name.lower() + (f" {cue:+d}" if cue else "") for kind, cue in zip(self.kinds, self.cues, strict=True)
        )


@dataclass(frozen=True)
class TMazeRunesConfig(TMazeConfig):
    """
    Validated arguments of a T-Maze of runes; :class:`TMazeRunesEnv` explains them.

    :param n_runes: Number of runes.
    :raises ValueError: For an argument outside its range, or a corridor that is too short for the runes.
    """

    n_runes: int = 2

    def __post_init__(self) -> None:
        if self.reward not in RUNE_REWARDS:
            raise ValueError(f"`reward` must be one of {', '.join(map(repr, RUNE_REWARDS))}. Received {self.reward!r}.")
        n_runes = check_integer("n_runes", self.n_runes, minimum=0)
        object.__setattr__(self, "n_runes", n_runes)
        check_integer("length", self.length, minimum=n_runes + 3)
        super().__post_init__()
        if self.corridor_range[0] <= n_runes:
            raise ValueError(
                f"`corridor_length` must be at least {n_runes + 1}, more than `n_runes`. Received {self.corridor_length!r}."
            )

    def draw_runes(self, rng: np.random.Generator, corridor: int) -> Runes:
        """
        Draw the runes of an episode.

        :param rng: Source of the draws.
        :param corridor: Cells before the junction, which is reached after all runes.
        :return: Runes at different steps after the first.
        """
        if not self.n_runes:
            return Runes([], [], [])
        steps = np.sort(1 + rng.choice(corridor - 1, self.n_runes, replace=False))
        kinds = rng.integers(len(Rune), size=self.n_runes)
        cues = np.where(kinds == Rune.REPLACE, 2 * rng.integers(2, size=self.n_runes) - 1, 0)
        return Runes(steps.tolist(), kinds.tolist(), cues.tolist())


def make_rune_spaces() -> tuple[spaces.Box, spaces.Discrete]:
    """Build new observation and action spaces, whose samplers are shared with no other environment."""
    low = np.zeros(N_FIXED + len(Rune), dtype=np.float32)
    low[[0, 1, 3]] = -1
    return spaces.Box(low, np.ones_like(low)), spaces.Discrete(len(Action))


class TMazeRunesEnv(TMazeEnv):
    """
    The T-Maze of runes, which asks whether a memory can combine what it holds with what it sees.

    ## Description
    The passive :class:`TMazeEnv` with runes on the way. The first observation shows a cue, +1 or -1, which the agent holds
    from then on. Each rune, seen for one step, changes it:

    | rune    | what is held after it                                    |
    |---------|----------------------------------------------------------|
    | invert  | the opposite cue; nothing, if nothing was held           |
    | repeat  | what was held before                                     |
    | cancel  | nothing                                                  |
    | replace | the cue that is shown with the rune                      |

    At the junction the right turn is up for +1, down for -1, and up if nothing is held. Inversions cannot be answered from
    what is seen alone: new = f(old, observation). Without runes this is the passive maze, draw by draw.

    ## Action Space
    ``Discrete(4)``: 0 right, 1 up, 2 left, 3 down. A move into a wall leaves the agent where it is.

    ## Observation Space
    ``Box`` of 8 float32 values:

    | index  | name  | values   | meaning                                                           |
    |--------|-------|----------|-------------------------------------------------------------------|
    | 0      | y     | -1, 0, 1 | 0 in the corridor, +-1 after the turn                             |
    | 1      | cue   | -1, 0, 1 | the cue in the first observation and with a replacing rune, else 0 |
    | 2      | flag  | 0, 1     | 1 at the junction and its two ends                                |
    | 3      | noise | -1, 0, 1 | uniform, drawn anew for every observation                         |
    | 4 to 7 | rune  | 0, 1     | one-hot: invert, repeat, cancel, replace; 0 where no rune is      |

    ## Rewards
    The turn gives 1 if it is the right one, else 0; a step that meets the deadline gives 0. Every other step gives

    - "sparse": 0;
    - "eased": -1 / T unless it increases x.

    ## Starting State
    x = 0, y = 0. The cue is +1 or -1 with equal probability. The runes are seen at different steps, uniform between the first
    and the one at which the junction can be reached, wherever the agent is then. Each is one of the four with equal
    probability, and what replaces is +1 or -1 with equal probability.

    ## Episode End
    The episode terminates with the turn, or after T steps; nothing is ever truncated. The last ``info`` holds ``is_success``
    and ``turn_success``, whether the turn was right.

    ## Arguments
    - `n_runes` (2): runes on the way.
    - `length` (30): step limit T, at least `n_runes` + 3.
    - `corridor_length` (None): cells C, more than `n_runes`, or an inclusive range (low, high) drawn from at each reset. None
      is T - 2.
    - `reward` ("sparse"): "sparse" or "eased".
    - `render_mode` (None): "human" or "rgb_array".

    ## Version History
    - v0: first version.

    :param n_runes: Runes on the way.
    :param length: Step limit T.
    :param corridor_length: Number of corridor cells, an inclusive range of them, or None.
    :param reward: Name of the reward variant.
    :param render_mode: None, "human" or "rgb_array".
    :raises ValueError: For an argument that :class:`TMazeRunesConfig` refuses, or an unknown render mode.
    """

    config: TMazeRunesConfig

    def __init__(
        self,
        n_runes: int = 2,
        length: int = 30,
        corridor_length: int | tuple[int, int] | None = None,
        reward: str = "sparse",
        render_mode: str | None = None,
    ) -> None:
        config = TMazeRunesConfig(length=length, corridor_length=corridor_length, reward=reward, n_runes=n_runes)
        super().__init__(length, corridor_length, reward=reward, render_mode=render_mode)
        self.config = config
        self.observation_space, self.action_space = make_rune_spaces()
        self.cue = 0
        self.runes = Runes([], [], [])

    def _start_corridor(self) -> None:
        super()._start_corridor()
        self.cue = self.goal
        self.runes = self.config.draw_runes(self.np_random, self.corridor)
        self.goal = self.runes.apply(self.cue) or 1

    def _rune(self) -> int | None:
        """Number of the rune that is seen at present."""
        return self.runes.steps.index(self.steps) if self.steps in self.runes.steps else None

    def _hint(self) -> int:
        rune = self._rune()
        return self.cue * (self.steps == 0) if rune is None else self.runes.cues[rune]

    def _observe(self) -> np.ndarray:
        observation = np.zeros(N_FIXED + len(Rune), dtype=np.float32)
        observation[:N_FIXED] = super()._observe()
        rune = self._rune()
        if rune is not None:
            observation[N_FIXED + self.runes.kinds[rune]] = 1
        return observation

    def _scene(self) -> Scene:
        return super()._scene()._replace(runes=self.runes.names(), rune=self._rune())

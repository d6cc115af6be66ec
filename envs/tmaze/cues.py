"""The T-Maze of several cues: all are shown at the start, and each of as many junctions asks for one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from ..arguments import check_integer
from .base import MazeEnv
from .config import DX, DY, Action, check_corridor
from .noise import Noise
from .render import Scene

ORDERS = ("shown", "told")
CUE_REWARDS = ("sparse", "eased")
N_FIXED = 4  # numbers of an observation that do not depend on the number of cues


@dataclass(frozen=True)
class TMazeCuesConfig:
    """
    Validated arguments of a T-Maze of cues; :class:`TMazeCuesEnv` explains them.

    Integers become Python ints; ``corridor_range`` is the pair (shortest, longest) that ``corridor_length`` stands for.

    :param n_cues: Number of cues k, and of junctions.
    :param length: Step limit T of the episode.
    :param corridor_length: Cells C of each corridor, or an inclusive range of them (None: the longest that leave one spare
        step).
    :param order: "shown" or "told".
    :param wrong_turn_ends: Whether a wrong turn ends the episode.
    :param reward: "sparse" or "eased".
    :raises ValueError: For an argument outside its range, or corridors that cannot be finished within ``length`` steps.
    """

    n_cues: int = 4
    length: int = 60
    corridor_length: int | tuple[int, int] | None = None
    order: str = "shown"
    wrong_turn_ends: bool = True
    reward: str = "sparse"
    corridor_range: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        for name, choices in (("order", ORDERS), ("reward", CUE_REWARDS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}. Received {getattr(self, name)!r}.")
        if not isinstance(self.wrong_turn_ends, bool | np.bool_):
            raise ValueError(f"`wrong_turn_ends` must be a bool. Received {self.wrong_turn_ends!r}.")
        n_cues = check_integer("n_cues", self.n_cues, minimum=1)
        length = check_integer("length", self.length, minimum=3 * n_cues)
        object.__setattr__(self, "n_cues", n_cues)
        object.__setattr__(self, "length", length)
        longest = (length - 2 * n_cues + 1) // n_cues  # all k turns, and k - 1 more cells of the first corridor
        default = (length - 2 * n_cues) // n_cues
        object.__setattr__(self, "corridor_range", check_corridor(self.corridor_length, default, longest, length))

    @property
    def idle_reward(self) -> float:
        """Reward of a step that brings the agent no further ("eased")."""
        return -1 / self.length

    def draw_episode(self, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
        """
        Draw what tells one episode from another.

        :param rng: Source of the draws.
        :return: Cues (+1 up, -1 down) in the order in which they are shown, and their indices in that of the junctions.
        """
        cues = [1 if rng.integers(2) else -1 for _ in range(self.n_cues)]
        return cues, rng.permutation(self.n_cues) if self.order == "told" else np.arange(self.n_cues)

    def draw_corridor(self, rng: np.random.Generator, turns: int) -> int:
        """
        Draw the length of a corridor.

        :param rng: Source of the draws.
        :param turns: Turns taken before it; the first corridor has ``n_cues - 1`` more cells.
        :return: Cells before the junction.
        """
        low, high = self.corridor_range
        cells = low if low == high else int(rng.integers(low, high, endpoint=True))
        return cells if turns else cells + self.n_cues - 1

    def make_spaces(self) -> tuple[spaces.Box, spaces.Discrete]:
        """Build new observation and action spaces, whose samplers are shared with no other environment."""
        low = np.zeros(N_FIXED + self.n_cues, dtype=np.float32)
        low[[0, 1, 3]] = -1
        return spaces.Box(low, np.ones_like(low)), spaces.Discrete(len(Action))


class TMazeCuesEnv(MazeEnv):
    """
    The T-Maze of several cues, which asks how much a memory holds.

    ## Description
    k cues, each +1 or -1, are shown one after the other by the first k observations. k corridors follow in a row, and each
    ends in a junction that asks for one of the cues: up for +1, down for -1. Every turn but the last leads to the start of
    the next corridor. Position is hidden, so that all k bits must be kept, the last of them for the whole episode, and with
    `order` "shown" also which of them are spent.

    With one cue this is the passive :class:`TMazeEnv`, draw by draw. Corridors in a row of which each shows a cue of its own
    are that maze's `n_corridors`; there one bit at a time must be kept.

    ## Action Space
    ``Discrete(4)``: 0 right, 1 up, 2 left, 3 down. A move into a wall leaves the agent where it is.

    ## Observation Space
    ``Box`` of 4 + k float32 values:

    | index      | name   | values   | meaning                                                                          |
    |------------|--------|----------|----------------------------------------------------------------------------------|
    | 0          | y      | -1, 0, 1 | 0 in the corridors, +-1 after the turn that ends the episode                     |
    | 1          | cue    | -1, 0, 1 | the cue in the first k observations, else 0                                      |
    | 2          | flag   | 0, 1     | 1 at a junction and its two ends                                                 |
    | 3          | noise  | -1, 0, 1 | uniform, drawn anew for every observation                                        |
    | 4 to 3 + k | number | 0, 1     | one-hot: the cue's number while it is shown; at a junction, with `order` "told", |
    |            |        |          | the number of the cue that is asked for; else 0                                  |

    ## Rewards
    A turn gives 1 if it is the right one, else 0; a step that meets the deadline gives 0. Every other step gives

    - "sparse": 0;
    - "eased": -1 / T unless it increases x.

    An expert returns exactly k.

    ## Starting State
    x = 0, y = 0, in every corridor. Each cue is +1 or -1 with equal probability; a ranged corridor length is drawn uniformly.
    The first corridor has k - 1 more cells than that, so that all cues are shown before its junction.

    ## Episode End
    The episode terminates with the last turn, with a wrong turn unless `wrong_turn_ends` is False, or after T steps. The
    deadline belongs to the task and leaves nothing to bootstrap, so it terminates too; nothing is ever truncated. The last
    ``info`` holds ``is_success``, whether all k turns were right, and ``turn_success``, the share of k that were.

    ## Arguments
    - `n_cues` (4): cues k, and junctions.
    - `length` (60): step limit T of the whole episode, at least 3 k.
    - `corridor_length` (None): cells C of each corridor, or an inclusive range (low, high) drawn from for each. None is the
      largest number that leaves a spare step, (T - 2 k) // k.
    - `order` ("shown"): which cue a junction asks for. "shown": the first junction for the first cue, and so on. "told": each
      junction tells the number of one that was not asked for before.
    - `wrong_turn_ends` (True): whether a wrong turn ends the episode, rather than cost its reward only.
    - `reward` ("sparse"): "sparse" or "eased".
    - `render_mode` (None): "human" or "rgb_array".

    ## Version History
    - v0: first version.

    :param n_cues: Cues, and junctions.
    :param length: Step limit T of the whole episode.
    :param corridor_length: Number of cells of each corridor, an inclusive range of them, or None.
    :param order: Which cue a junction asks for.
    :param wrong_turn_ends: Whether a wrong turn ends the episode.
    :param reward: Name of the reward variant.
    :param render_mode: None, "human" or "rgb_array".
    :raises ValueError: For an argument that :class:`TMazeCuesConfig` refuses, or an unknown render mode.
    """

    def __init__(
        self,
        n_cues: int = 4,
        length: int = 60,
        corridor_length: int | tuple[int, int] | None = None,
        order: str = "shown",
        wrong_turn_ends: bool = True,
        reward: str = "sparse",
        render_mode: str | None = None,
    ) -> None:
        self.config = TMazeCuesConfig(n_cues, length, corridor_length, order, wrong_turn_ends, reward)
        super().__init__(render_mode)
        self.observation_space, self.action_space = self.config.make_spaces()
        self.x = self.y = self.steps = self.corridor = self.turns = self.correct_turns = 0
        self.cues: list[int] = []
        self.asked = np.arange(self.config.n_cues)  # by junction, the number of the cue that it asks for
        self._last_action: Action | None = None
        self._noise: Noise | None = None

    @property
    def junction(self) -> int:
        """Number of the next junction, or of the one at which the episode ended by a turn."""
        return self.turns - (self.y != 0)

    @property
    def goal(self) -> int:
        """The cue that this junction asks for."""
        return self.cues[self.asked[self.junction]]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: Restarts both random streams; None continues them.
        :param options: Unused.
        :return: The first observation, shape (4 + n_cues,), and an empty info.
        """
        super().reset(seed=seed)
        if seed is not None or self._noise is None:
            self._noise = Noise(self.np_random)
        self.turns = self.correct_turns = self.steps = 0
        self.cues, self.asked = self.config.draw_episode(self.np_random)
        self._start_corridor()
        self._running = True
        self._last_action = None
        observation = self._observe()
        self._show()
        return observation, {}

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Move the agent.

        :param action: 0 right, 1 up, 2 left, 3 down.
        :return: Observation of shape (4 + n_cues,), reward, terminated, False, and the info.
        :raises ResetNeeded: Before the first reset and after the end of an episode.
        :raises ValueError: If ``action`` is not in the action space.
        """
        self._require(self._running)
        if not self.action_space.contains(action):
            raise ValueError(f"`action` must be an integer from 0 to 3. Received {action!r}.")
        x, goal = self.x, self.goal
        self.x = min(max(x + DX[action], 0), self.corridor)
        self.y = DY[action] if x == self.corridor else 0
        self.steps += 1
        turned, correct = self.y != 0, self.y == goal
        self.turns += turned
        self.correct_turns += correct
        failed = turned and not correct and self.config.wrong_turn_ends
        terminated = bool(failed or self.turns == self.config.n_cues or self.steps == self.config.length)
        reward = float(correct) if turned or terminated else self._shaping(progress=self.x > x)
        if turned and not terminated:
            self._start_corridor()
        self._running = not terminated
        self._last_action = Action(int(action))
        observation = self._observe()
        self._show()
        return observation, reward, terminated, False, self._summary() if terminated else {}

    def oracle_action(self) -> int:
        """
        Return the action of an expert that knows the cues.

        :return: 0 to 3.
        :raises ResetNeeded: Before the first reset and after the end of an episode.
        """
        self._require(self._running)
        if self.x < self.corridor:
            return int(Action.RIGHT)
        return int(Action.UP if self.goal > 0 else Action.DOWN)

    def _scene(self) -> Scene:
        self._require(bool(self.cues))
        return Scene(
            x=self.x,
            y=self.y,
            goal=self.goal,
            hint=self._hint(),
            corridor=self.corridor,
            leftmost=0,
            steps=self.steps,
            length=self.config.length,
            turns=self.turns,
            correct_turns=self.correct_turns,
            n_corridors=self.config.n_cues,
            last_action=None if self._last_action is None else self._last_action.name.lower(),
            cues=tuple(self.cues),
            asked=int(self.asked[self.junction]),
        )

    def _start_corridor(self) -> None:
        self.corridor = self.config.draw_corridor(self.np_random, self.turns)
        self.x = self.y = 0

    def _summary(self) -> dict[str, Any]:
        n_cues = self.config.n_cues
        return {"is_success": self.correct_turns == n_cues, "turn_success": self.correct_turns / n_cues}

    def _hint(self) -> int:
        return self.cues[self.steps] if self.steps < self.config.n_cues else 0

    def _observe(self) -> np.ndarray:
        assert self._noise is not None
        observation = np.zeros(N_FIXED + self.config.n_cues, dtype=np.float32)
        at_junction = self.x == self.corridor
        observation[:N_FIXED] = self.y, self._hint(), at_junction, self._noise.next()
        if self.steps < self.config.n_cues:
            observation[N_FIXED + self.steps] = 1
        elif at_junction and not self.y and self.config.order == "told":
            observation[N_FIXED + self.asked[self.turns]] = 1
        return observation

    def _shaping(self, progress: bool) -> float:
        return self.config.idle_reward if self.config.reward == "eased" and not progress else 0.0

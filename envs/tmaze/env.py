"""The T-Maze: one bit shown at the start of a corridor decides the turn at its end."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import MazeEnv
from .config import DX, DY, Action, TMazeConfig, make_spaces
from .noise import Noise
from .render import Scene


class TMazeEnv(MazeEnv):
    """
    The T-Maze, passive or active, of one corridor or of several in a row.

    ## Description
    The agent walks along a corridor of C cells from x = 0 to the junction at x = C, and turns up or down there. Which
    turn is right was shown once, long before: in the passive maze by the first observation, in the active maze at an
    oracle cell one step left of the start. Position is hidden, so nothing but memory tells the two turns apart.

    With `n_corridors` above 1, every turn but the last, right or wrong, leads to the start of another corridor, which has a
    goal of its own and shows it as the first one did.

    The maze and its sparse reward are those of ELMUR (https://arxiv.org/abs/2510.07151); the active maze and the
    "penalty" reward are from Ni et al. 2023 (https://arxiv.org/abs/2307.03864), the "eased" reward from AMAGO
    (https://arxiv.org/abs/2310.09971).

    Dynamics and rewards of the passive maze are those of Ni et al. with `corridor_length` = `length` - 1 and the reward
    "penalty". The active maze differs from theirs (Memory-RL's ``TMazeClassicActive``), also with `corridor_length` =
    `length` - 3, as follows:

    - The penalty is -1 / (T - 1), which is -1 / (C + 2); theirs is -1 / C.
    - The hint shows at every visit to the oracle; theirs shows at the first one.
    - A turn ends the episode; theirs lasts all T steps, in which the agent can come back from an end of the junction, and
      rewards the end where it stands at the last one.
    - They observe (flag, hint or y); this maze observes both apart, and noise.

    ## Action Space
    ``Discrete(4)``: 0 right, 1 up, 2 left, 3 down. A move into a wall leaves the agent where it is.

    ## Observation Space
    ``Box`` of four float32 values:

    | index | name  | values    | meaning                                                                                  |
    |-------|-------|-----------|------------------------------------------------------------------------------------------|
    | 0     | y     | -1, 0, 1  | 0 in the corridors, +-1 after the last turn                                              |
    | 1     | hint  | -1, 0, 1  | the goal in a corridor's first `hint_steps` observations (active: at the oracle), else 0 |
    | 2     | flag  | 0, 1      | 1 at the junction and its two ends                                                       |
    | 3     | noise | -1, 0, 1  | uniform, drawn anew for every observation                                                |

    ## Rewards
    A turn at the junction gives 1 if it is the right one, else 0; a step that meets the deadline gives 0. With t the steps
    taken so far in the corridor, every other step gives

    - "sparse": 0;
    - "penalty": -1 / (T - 1) if it leaves the agent behind schedule, x < t (active: x < t - 2), else 0;
    - "eased": -1 / T unless it increases x or, in the active maze, reaches the oracle for the first time.

    An expert returns exactly 1 per corridor in all of them.

    ## Starting State
    x = 0, y = 0, in every corridor. Its goal is +1 (up) or -1 (down) with equal probability; a ranged corridor length is
    drawn uniformly.

    ## Episode End
    The episode terminates with the turn at the last junction, or after T steps in one corridor. The deadline belongs to the
    task and leaves nothing to bootstrap, so it terminates too; nothing is ever truncated. The last ``info`` holds
    ``is_success``, whether every turn was right, and ``turn_success``, the share of the `n_corridors` turns that were.

    ## Arguments
    - `length` (30): step limit T of each corridor.
    - `corridor_length` (None): cells C, or an inclusive range (low, high) drawn from for each corridor. None is T - 2
      (active: T - 4), which leaves one spare step.
    - `hint_steps` (1): number of observations in each corridor that show the hint; passive maze only.
    - `reward` ("sparse"): "sparse", "penalty" or "eased".
    - `active` (False): whether the hint has to be fetched from the oracle cell x = -1.
    - `n_corridors` (1): corridors in a row.
    - `render_mode` (None): "human" or "rgb_array".

    ## Version History
    - v0: first version.

    :param length: Step limit T of each corridor.
    :param corridor_length: Number of corridor cells, an inclusive range of them, or None.
    :param hint_steps: Number of observations that show the hint.
    :param reward: Name of the reward variant.
    :param active: Whether the hint has to be fetched from the oracle cell.
    :param n_corridors: Corridors in a row, each with a goal of its own.
    :param render_mode: None, "human" or "rgb_array".
    :raises ValueError: For an argument that :class:`TMazeConfig` refuses, or an unknown render mode.
    """

    def __init__(
        self,
        length: int = 30,
        corridor_length: int | tuple[int, int] | None = None,
        hint_steps: int = 1,
        reward: str = "sparse",
        active: bool = False,
        n_corridors: int = 1,
        render_mode: str | None = None,
    ) -> None:
        self.config = TMazeConfig(length, corridor_length, hint_steps, reward, active, n_corridors)
        super().__init__(render_mode)
        self.observation_space, self.action_space = make_spaces()
        self.x = self.y = self.steps = self.corridor = self.goal = self.turns = self.correct_turns = 0
        self._informed = False
        self._last_action: Action | None = None
        self._noise: Noise | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: Restarts both random streams; None continues them.
        :param options: Unused.
        :return: The first observation, shape (4,), and an empty info.
        """
        super().reset(seed=seed)
        if seed is not None or self._noise is None:
            self._noise = Noise(self.np_random)
        self.turns = self.correct_turns = 0
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
        :return: Observation of shape (4,), reward, terminated, False, and the info.
        :raises ResetNeeded: Before the first reset and after the end of an episode.
        :raises ValueError: If ``action`` is not in the action space.
        """
        self._require(self._running)
        if not self.action_space.contains(action):
            raise ValueError(f"`action` must be an integer from 0 to 3. Received {action!r}.")
        x = self.x
        self.x = min(max(x + DX[action], self.config.leftmost), self.corridor)
        self.y = DY[action] if x == self.corridor else 0
        self.steps += 1
        turned = self.y != 0
        correct = self.y == self.goal
        self.turns += turned
        self.correct_turns += correct
        terminated = self.turns == self.config.n_corridors if turned else self.steps == self.config.length
        found_oracle = not self._informed and self.x < 0
        self._informed |= found_oracle
        reward = float(correct) if turned or terminated else self._shaping(progress=self.x > x or found_oracle)
        if turned and not terminated:
            self._start_corridor()
        self._running = not terminated
        self._last_action = Action(int(action))
        observation = self._observe()
        self._show()
        return observation, reward, terminated, False, self._summary() if terminated else {}

    def oracle_action(self) -> int:
        """
        Return the action of an expert that knows the goal.

        :return: 0 to 3.
        :raises ResetNeeded: Before the first reset and after the end of an episode.
        """
        self._require(self._running)
        if not self._informed:
            return int(Action.LEFT)
        if self.x < self.corridor:
            return int(Action.RIGHT)
        return int(Action.UP if self.goal > 0 else Action.DOWN)

    def _scene(self) -> Scene:
        self._require(self.goal != 0)
        return Scene(
            x=self.x,
            y=self.y,
            goal=self.goal,
            hint=self._hint(),
            corridor=self.corridor,
            leftmost=self.config.leftmost,
            steps=self.steps,
            length=self.config.length,
            turns=self.turns,
            correct_turns=self.correct_turns,
            n_corridors=self.config.n_corridors,
            last_action=None if self._last_action is None else self._last_action.name.lower(),
        )

    def _start_corridor(self) -> None:
        self.goal, self.corridor = self.config.draw_corridor(self.np_random)
        self.x = self.y = self.steps = 0
        self._informed = not self.config.active

    def _summary(self) -> dict[str, Any]:
        n_corridors = self.config.n_corridors
        return {"is_success": self.correct_turns == n_corridors, "turn_success": self.correct_turns / n_corridors}

    def _hint(self) -> int:
        visible = self.x < 0 if self.config.active else self.steps < self.config.hint_steps
        return self.goal if visible else 0

    def _observe(self) -> np.ndarray:
        assert self._noise is not None
        return np.array([self.y, self._hint(), self.x == self.corridor, self._noise.next()], dtype=np.float32)

    def _shaping(self, progress: bool) -> float:
        if self.config.reward == "penalty" and self.x < self.steps - self.config.detour:
            return self.config.late_reward
        if self.config.reward == "eased" and not progress:
            return self.config.idle_reward
        return 0.0

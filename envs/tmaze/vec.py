"""Many T-Mazes at once, as a Stable-Baselines3 ``VecEnv`` in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import MOVES_X, MOVES_Y, NO_ACTION, MazeVecEnv
from .config import NOISE, Action, TMazeConfig, make_spaces
from .render import Scene


class TMazeVecEnv(MazeVecEnv):
    """
    ``n_envs`` T-Mazes that step together, equal step by step to a ``DummyVecEnv`` of :class:`TMazeEnv`.

    After ``seed(s)`` (or with ``seed=s``), environment i draws what ``TMazeEnv`` draws after ``reset(seed=s + i)``.
    ``get_attr`` and ``set_attr`` reach the state of each environment under the names ``x``, ``steps``, ``goal``,
    ``corridor``, ``turns`` and ``correct_turns``; ``env_method`` knows ``oracle_action`` and ``render``.

    In a passive maze :meth:`look_ahead` and :meth:`move_right` cross a corridor many steps at a time: on the way right no
    observation depends on what the agent does.

    :param n_envs: Number of environments.
    :param length: Step limit T of each corridor.
    :param corridor_length: Number of corridor cells, an inclusive range of them, or None.
    :param hint_steps: Number of observations that show the hint.
    :param reward: Name of the reward variant.
    :param active: Whether the hint has to be fetched from the oracle cell.
    :param n_corridors: Corridors in a row, each with a goal of its own.
    :param render_mode: None or "rgb_array", which SB3 also shows on screen.
    :param seed: Seed of the first environment; None seeds from the operating system.
    :raises ValueError: For an argument that :class:`TMazeConfig` refuses, an unknown render mode, or ``n_envs`` below 1.
    """

    config: TMazeConfig
    STATE = ("x", "steps", "goal", "corridor", "turns", "correct_turns")

    def __init__(
        self,
        n_envs: int,
        length: int = 30,
        corridor_length: int | tuple[int, int] | None = None,
        hint_steps: int = 1,
        reward: str = "sparse",
        active: bool = False,
        n_corridors: int = 1,
        render_mode: str | None = None,
        seed: int | None = None,
    ) -> None:
        self.config = TMazeConfig(length, corridor_length, hint_steps, reward, active, n_corridors)
        super().__init__(n_envs, *make_spaces(), render_mode, seed)
        self.x, self.steps, self.goal, self.corridor = np.zeros((4, self.num_envs), dtype=np.int64)
        self.turns, self.correct_turns = np.zeros((2, self.num_envs), dtype=np.int64)
        self._informed = np.zeros(self.num_envs, dtype=bool)

    def _start(self, rows: np.ndarray) -> np.ndarray:
        self.turns[rows] = 0
        self.correct_turns[rows] = 0
        self._last_action[rows] = NO_ACTION
        self._start_corridor(rows)
        return self._next_observations(rows)

    def _step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        config, x = self.config, self.x
        self._last_action = actions
        self.x = np.minimum(np.maximum(x + MOVES_X[actions], config.leftmost), self.corridor)
        y = MOVES_Y[actions] * (x == self.corridor)
        self.steps += 1
        turned = y != 0
        correct = y == self.goal
        self.turns += turned
        self.correct_turns += correct
        found_oracle = ~self._informed & (self.x < 0)
        self._informed |= found_oracle
        terminated = turned | (self.steps == config.length)
        rewards = np.where(terminated, correct, self._shaping((self.x > x) | found_oracle)).astype(np.float32)
        passed = (turned & (self.turns != config.n_corridors)).nonzero()[0]
        if passed.size:
            self._start_corridor(passed)
            y[passed] = 0
            terminated[passed] = False
        observations = self._next_observations(self._all)
        observations[:, 0] = y
        return observations, rewards, terminated, np.zeros_like(terminated)

    def _summary(self, i: int) -> dict[str, Any]:
        n_correct, n_corridors = int(self.correct_turns[i]), self.config.n_corridors
        return {"is_success": n_correct == n_corridors, "turn_success": n_correct / n_corridors}

    def oracle_actions(self) -> np.ndarray:
        """
        Return the actions of an expert that knows the goals.

        :return: Int64, shape (n_envs,).
        :raises ResetNeeded: Before the first reset.
        """
        self._require_reset()
        turn = np.where(self.goal > 0, Action.UP, Action.DOWN)
        onward = np.where(self.x < self.corridor, Action.RIGHT, turn)
        return np.where(self._informed, onward, Action.LEFT)

    def look_ahead(self, n_steps: int) -> np.ndarray:
        """See :meth:`sb3_elmur.envs.tmaze.base.MazeVecEnv.look_ahead`."""
        n_steps = self._check_walk(n_steps, n_more=1)
        ahead = np.arange(n_steps)
        observations = np.zeros((self.num_envs, n_steps, 4), dtype=np.float32)
        observations[:, :, 1] = self.goal[:, None] * (self.steps[:, None] + ahead < self.config.hint_steps)
        observations[:, :, 2] = self.x[:, None] + ahead >= self.corridor[:, None]
        observations[:, :, NOISE] = self._noise.ahead(n_steps)
        return observations

    def quiet_steps(self) -> np.ndarray:
        """See :meth:`sb3_elmur.envs.tmaze.base.MazeVecEnv.quiet_steps`."""
        penalised = (self.x < self.steps) & (self.config.reward == "penalty")
        return np.where(self.config.active | (self._hint(self._all) != 0) | penalised, 0, self._steps_in_corridor())

    def _scene(self, i: int) -> Scene:
        return Scene(
            x=int(self.x[i]),
            y=0,
            goal=int(self.goal[i]),
            hint=int(self._hint(self._all)[i]),
            corridor=int(self.corridor[i]),
            leftmost=self.config.leftmost,
            steps=int(self.steps[i]),
            length=self.config.length,
            turns=int(self.turns[i]),
            correct_turns=int(self.correct_turns[i]),
            n_corridors=self.config.n_corridors,
            last_action=self._name_of_last_action(i),
        )

    def _check_walk(self, n_steps: int, n_more: int = 0) -> int:
        self._require_reset()
        if self.config.active:
            raise ValueError("`active` must be False to look ahead or to move right many steps at once. Received True.")
        return super()._check_walk(n_steps, n_more)

    def _start_corridor(self, rows: np.ndarray) -> None:
        for i in rows.tolist():
            self.goal[i], self.corridor[i] = self.config.draw_corridor(self._rngs[i])
        self.x[rows] = 0
        self.steps[rows] = 0
        self._informed[rows] = not self.config.active

    def _hint(self, rows: np.ndarray) -> np.ndarray:
        visible = self.x[rows] < 0 if self.config.active else self.steps[rows] < self.config.hint_steps
        return self.goal[rows] * visible

    def _observe(self, rows: np.ndarray) -> np.ndarray:
        observations = np.zeros((len(rows), 4), dtype=np.float32)
        observations[:, 1] = self._hint(rows)
        observations[:, 2] = self.x[rows] == self.corridor[rows]
        observations[:, NOISE] = self._noise.present(rows)
        return observations

    def _shaping(self, progress: np.ndarray) -> np.ndarray | float:
        if self.config.reward == "penalty":
            return np.where(self.x < self.steps - self.config.detour, self.config.late_reward, 0.0)
        if self.config.reward == "eased":
            return np.where(progress, 0.0, self.config.idle_reward)
        return 0.0

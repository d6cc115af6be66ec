"""Many T-Mazes of cues at once, as a Stable-Baselines3 ``VecEnv`` in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import MOVES_X, MOVES_Y, NO_ACTION, MazeVecEnv
from .config import NOISE, Action
from .cues import N_FIXED, TMazeCuesConfig
from .render import Scene


class TMazeCuesVecEnv(MazeVecEnv):
    """
    ``n_envs`` T-Mazes of cues that step together, equal step by step to a ``DummyVecEnv`` of :class:`TMazeCuesEnv`.

    After ``seed(s)`` (or with ``seed=s``), environment i draws what ``TMazeCuesEnv`` draws after ``reset(seed=s + i)``.
    ``get_attr`` and ``set_attr`` reach the state of each environment under the names ``x``, ``steps``, ``corridor``, ``turns``
    and ``correct_turns``; ``env_method`` knows ``oracle_action`` and ``render``.

    :meth:`look_ahead` and :meth:`move_right` cross a corridor many steps at a time: on the way right no observation depends
    on what the agent does.

    :param n_envs: Number of environments.
    :param n_cues: Cues k, and junctions.
    :param length: Step limit T of the whole episode.
    :param corridor_length: Number of cells of each corridor, an inclusive range of them, or None.
    :param order: Which cue a junction asks for.
    :param wrong_turn_ends: Whether a wrong turn ends the episode.
    :param reward: Name of the reward variant.
    :param render_mode: None or "rgb_array", which SB3 also shows on screen.
    :param seed: Seed of the first environment; None seeds from the operating system.
    :raises ValueError: For an argument that :class:`TMazeCuesConfig` refuses, an unknown render mode, or ``n_envs`` below 1.
    """

    config: TMazeCuesConfig
    STATE = ("x", "steps", "corridor", "turns", "correct_turns")

    def __init__(
        self,
        n_envs: int,
        n_cues: int = 4,
        length: int = 60,
        corridor_length: int | tuple[int, int] | None = None,
        order: str = "shown",
        wrong_turn_ends: bool = True,
        reward: str = "sparse",
        render_mode: str | None = None,
        seed: int | None = None,
    ) -> None:
        self.config = TMazeCuesConfig(n_cues, length, corridor_length, order, wrong_turn_ends, reward)
        super().__init__(n_envs, *self.config.make_spaces(), render_mode, seed)
        self.x, self.steps, self.corridor, self.turns, self.correct_turns = np.zeros((5, self.num_envs), dtype=np.int64)
        self.cues = np.ones((self.num_envs, self.config.n_cues), dtype=np.int64)
        self.asked = np.zeros((self.num_envs, self.config.n_cues), dtype=np.int64)

    def _start(self, rows: np.ndarray) -> np.ndarray:
        self.turns[rows] = self.correct_turns[rows] = self.steps[rows] = 0
        self._last_action[rows] = NO_ACTION
        for i in rows.tolist():
            self.cues[i], self.asked[i] = self.config.draw_episode(self._rngs[i])
        self._start_corridor(rows)
        return self._next_observations(rows)

    def _step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        config, x, goal = self.config, self.x, self._goals()
        self._last_action = actions
        self.x = np.minimum(np.maximum(x + MOVES_X[actions], 0), self.corridor)
        y = MOVES_Y[actions] * (x == self.corridor)
        self.steps += 1
        turned, correct = y != 0, y == goal
        self.turns += turned
        self.correct_turns += correct
        failed = turned & ~correct & config.wrong_turn_ends
        terminated = failed | (self.turns == config.n_cues) | (self.steps == config.length)
        idle = config.idle_reward if config.reward == "eased" else 0.0
        rewards = np.where(turned | terminated, correct, np.where(self.x > x, 0.0, idle)).astype(np.float32)
        passed = (turned & ~terminated).nonzero()[0]
        self._start_corridor(passed)
        y[passed] = 0
        observations = self._next_observations(self._all)
        observations[:, 0] = y
        if config.order == "told":  # at the end of a turn no cue is asked for
            observations[(y != 0) & (self.steps >= config.n_cues), N_FIXED:] = 0
        return observations, rewards, terminated, np.zeros_like(terminated)

    def _summary(self, i: int) -> dict[str, Any]:
        n_correct, n_cues = int(self.correct_turns[i]), self.config.n_cues
        return {"is_success": n_correct == n_cues, "turn_success": n_correct / n_cues}

    def oracle_actions(self) -> np.ndarray:
        """
        Return the actions of an expert that knows the cues.

        :return: Int64, shape (n_envs,).
        :raises ResetNeeded: Before the first reset.
        """
        self._require_reset()
        turn = np.where(self._goals() > 0, Action.UP, Action.DOWN)
        return np.where(self.x < self.corridor, Action.RIGHT, turn)

    def look_ahead(self, n_steps: int) -> np.ndarray:
        """See :meth:`sb3_elmur.envs.tmaze.base.MazeVecEnv.look_ahead`."""
        n_steps = self._check_walk(n_steps, n_more=1)
        ahead = np.arange(n_steps)
        steps = self.steps[:, None] + ahead  # (n_envs, n_steps)
        at_junction = self.x[:, None] + ahead >= self.corridor[:, None]
        return self._compose(self._all[:, None], steps, at_junction, self._noise.ahead(n_steps))

    def quiet_steps(self) -> np.ndarray:
        """See :meth:`sb3_elmur.envs.tmaze.base.MazeVecEnv.quiet_steps`."""
        return np.where(self.steps < self.config.n_cues, 0, self._steps_in_corridor())

    def _scene(self, i: int) -> Scene:
        steps = int(self.steps[i])
        return Scene(
            x=int(self.x[i]),
            y=0,
            goal=int(self._goals()[i]),
            hint=int(self.cues[i, steps]) if steps < self.config.n_cues else 0,
            corridor=int(self.corridor[i]),
            leftmost=0,
            steps=steps,
            length=self.config.length,
            turns=int(self.turns[i]),
            correct_turns=int(self.correct_turns[i]),
            n_corridors=self.config.n_cues,
            last_action=self._name_of_last_action(i),
            cues=tuple(self.cues[i].tolist()),
            asked=int(self.asked[i, self.turns[i]]),
        )

    def _goals(self) -> np.ndarray:
        return self.cues[self._all, self.asked[self._all, self.turns]]

    def _start_corridor(self, rows: np.ndarray) -> None:
        for i in rows.tolist():
            self.corridor[i] = self.config.draw_corridor(self._rngs[i], int(self.turns[i]))
        self.x[rows] = 0

    def _observe(self, rows: np.ndarray) -> np.ndarray:
        at_junction = self.x[rows] == self.corridor[rows]
        return self._compose(rows, self.steps[rows], at_junction, self._noise.present(rows))

    def _compose(self, rows: np.ndarray, steps: np.ndarray, at_junction: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Put observations of agents in corridors together; ``rows`` and the others have one shape after broadcasting."""
        n_cues = self.config.n_cues
        number = np.minimum(steps, n_cues - 1)
        shown = steps < n_cues
        observations = np.zeros((*steps.shape, N_FIXED + n_cues), dtype=np.float32)
        observations[..., 1] = self.cues[rows, number] * shown
        observations[..., 2] = at_junction
        observations[..., NOISE] = noise
        visible = shown
        if self.config.order == "told":
            asked = self.asked[rows, np.minimum(self.turns[rows], n_cues - 1)]
            number, visible = np.where(shown, number, asked), shown | at_junction
        np.put_along_axis(observations[..., N_FIXED:], number[..., None], visible[..., None], axis=-1)
        return observations

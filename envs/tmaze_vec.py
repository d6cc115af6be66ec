"""Many T-Mazes at once, as a Stable-Baselines3 ``VecEnv`` in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from .tmaze import (
    DX,
    DY,
    NOISE_BLOCK,
    Action,
    TMazeConfig,
    TMazeEnv,
    check_integer,
    draw_noise,
    make_noise_generator,
    make_spaces,
)
from .tmaze_render import Scene, draw

STATE = ("x", "steps", "goal", "corridor", "turns", "correct_turns")
NO_ACTION = -1


class TMazeVecEnv(VecEnv):
    """``n_envs`` T-Mazes that step together, equal step by step to a ``DummyVecEnv`` of :class:`TMazeEnv`.

    After ``seed(s)`` (or with ``seed=s``), environment i draws what ``TMazeEnv`` draws after ``reset(seed=s + i)``.
    ``get_attr`` and ``set_attr`` reach the state of each environment under the names ``x``, ``steps``, ``goal``,
    ``corridor``, ``turns`` and ``correct_turns``; ``env_method`` knows ``oracle_action`` and ``render``.

    In a passive maze :meth:`look_ahead` and :meth:`move_right` cross a corridor many steps at a time: on the way right no
    observation depends on what the agent does.

    :param n_envs: number of environments
    :param length: step limit T of each corridor
    :param corridor_length: number of corridor cells, an inclusive range of them, or None
    :param hint_steps: number of observations that show the hint
    :param reward: name of the reward variant
    :param active: whether the hint has to be fetched from the oracle cell
    :param n_corridors: corridors in a row, each with a goal of its own
    :param render_mode: None or "rgb_array", which SB3 also shows on screen
    :param seed: seed of the first environment; None seeds from the operating system
    :raises ValueError: for an argument that :class:`TMazeConfig` refuses, an unknown render mode, or ``n_envs`` below 1
    """

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
        n_envs = check_integer("n_envs", n_envs, minimum=1)
        self.config = TMazeConfig(length, corridor_length, hint_steps, reward, active, n_corridors)
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"`render_mode` must be None or 'rgb_array'. Received {render_mode!r}.")
        self.render_mode = render_mode
        super().__init__(n_envs, *make_spaces())
        self.metadata = TMazeEnv.metadata
        self.x, self.steps, self.goal, self.corridor = np.zeros((4, n_envs), dtype=np.int64)
        self.turns, self.correct_turns = np.zeros((2, n_envs), dtype=np.int64)
        self._informed = np.zeros(n_envs, dtype=bool)
        self._last_action = np.full(n_envs, NO_ACTION)
        self._running = False
        self._all = np.arange(n_envs)
        self._dx, self._dy = np.array(DX), np.array(DY)
        self._rngs = [seeding.np_random(None)[0] for _ in range(n_envs)]
        self._noise_rngs = [make_noise_generator(rng) for rng in self._rngs]
        self._noise = np.empty((n_envs, NOISE_BLOCK), dtype=np.int8)
        self._cursor = np.full(n_envs, NOISE_BLOCK - 1)
        if seed is not None:
            self.seed(seed)

    def reset(self) -> np.ndarray:
        """Start an episode in every environment, with the seeds given since the last reset.

        :return: observations, shape (n_envs, 4)
        """
        for i, seed in enumerate(self._seeds):
            if seed is not None:
                self._rngs[i], _ = seeding.np_random(seed)
                self._noise_rngs[i] = make_noise_generator(self._rngs[i])
                self._cursor[i] = self._noise.shape[1] - 1
        self._reset_seeds()
        self._reset_options()
        self._start_episode(self._all)
        self._running = True
        return self._next_observations(self._all)

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of the next step.

        :param actions: integers from 0 to 3, shape (n_envs,)
        :raises ResetNeeded: before the first reset
        :raises ValueError: for actions of another shape, type or range
        """
        self._require_reset()
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"`actions` must be integers of shape ({self.num_envs},). Received {actions.dtype} of shape {actions.shape}."
            )
        outside = (actions < 0) | (actions >= len(Action))
        if outside.any():
            raise ValueError(f"`actions` must be integers from 0 to 3. Received {actions[outside][0]}.")
        self._last_action = actions.astype(np.int64)

    def step_wait(self) -> VecEnvStepReturn:
        """Move every agent as :meth:`step_async` said; an environment that ends starts its next episode at once.

        :return: observations of shape (n_envs, 4), rewards and dones of shape (n_envs,), and one info per environment
        """
        config, actions, x = self.config, self._last_action, self.x
        self.x = np.minimum(np.maximum(x + self._dx[actions], config.leftmost), self.corridor)
        y = self._dy[actions] * (x == self.corridor)
        self.steps += 1
        turned = y != 0
        correct = y == self.goal
        self.turns += turned
        self.correct_turns += correct
        found_oracle = ~self._informed & (self.x < 0)
        self._informed |= found_oracle
        dones = turned | (self.steps == config.length)
        rewards = np.where(dones, correct, self._shaping((self.x > x) | found_oracle)).astype(np.float32)
        passed = (turned & (self.turns != config.n_corridors)).nonzero()[0]
        if passed.size:
            self._start_corridor(passed)
            y[passed] = 0
            dones[passed] = False
        observations = self._next_observations(self._all)
        observations[:, 0] = y
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        ended = dones.nonzero()[0]
        if ended.size:
            for i, n_correct, last in zip(
                ended.tolist(), self.correct_turns[ended].tolist(), observations[ended], strict=True
            ):
                infos[i]["is_success"] = n_correct == config.n_corridors
                infos[i]["turn_success"] = n_correct / config.n_corridors
                infos[i]["terminal_observation"] = last
            self._start_episode(ended)
            observations[ended] = self._next_observations(ended)
        return observations, rewards, dones, infos

    def oracle_actions(self) -> np.ndarray:
        """Return the actions of an expert that knows the goals.

        :return: int64, shape (n_envs,)
        :raises ResetNeeded: before the first reset
        """
        self._require_reset()
        turn = np.where(self.goal > 0, Action.UP, Action.DOWN)
        onward = np.where(self.x < self.corridor, Action.RIGHT, turn)
        return np.where(self._informed, onward, Action.LEFT)

    def at_junction(self) -> np.ndarray:
        """Tell which agents stand at the junction.

        :return: bool, shape (n_envs,)
        :raises ResetNeeded: before the first reset
        """
        self._require_reset()
        return self.x == self.corridor

    def look_ahead(self, n_steps: int) -> np.ndarray:
        """Return the observations of agents that move right from here, without moving them.

        :param n_steps: number of observations: the current one and the ``n_steps - 1`` next ones
        :return: float32, shape (n_envs, n_steps, 4)
        :raises ResetNeeded: before the first reset
        :raises ValueError: in an active maze, or if an episode ends on the way
        """
        n_steps = self._check_walk(n_steps, spare=0)
        self._extend_noise(n_steps)
        ahead = np.arange(n_steps)
        observations = np.zeros((self.num_envs, n_steps, 4), dtype=np.float32)
        observations[:, :, 1] = self.goal[:, None] * (self.steps[:, None] + ahead < self.config.hint_steps)
        observations[:, :, 2] = self.x[:, None] + ahead >= self.corridor[:, None]
        observations[:, :, 3] = self._noise[self._all[:, None], self._cursor[:, None] + ahead]
        return observations

    def move_right(self, n_steps: int) -> np.ndarray:
        """Move every agent right, as ``n_steps`` calls of ``step`` do; agents at the junction stay there.

        Rewards are not returned, and wrappers such as ``VecMonitor`` do not see these steps.

        :param n_steps: number of moves
        :return: the observations after them, shape (n_envs, 4)
        :raises ResetNeeded: before the first reset
        :raises ValueError: in an active maze, or if an episode ends on the way
        """
        n_steps = self._check_walk(n_steps, spare=1)
        for start in range(0, n_steps, NOISE_BLOCK):
            n_values = min(NOISE_BLOCK, n_steps - start)
            self._extend_noise(n_values + 1)
            self._cursor += n_values
        self.x = np.minimum(self.x + n_steps, self.corridor)
        self.steps += n_steps
        self._last_action = np.full(self.num_envs, Action.RIGHT)
        return self._observe(self._all)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Draw every maze, as :meth:`TMazeEnv.render` does."""
        return self.env_method("render")

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each environment: its own value of the state, else the common value."""
        value = getattr(self, attr_name)
        return [int(value[i]) if attr_name in STATE else value for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute.

        :param attr_name: name of a state array, or of an attribute that all environments share
        :param value: the new value
        :param indices: environments to change; state only
        :raises ValueError: if a shared attribute is to change in some environments only
        """
        if attr_name in STATE:
            getattr(self, attr_name)[list(self._get_indices(indices))] = value
        elif indices is None:
            setattr(self, attr_name, value)
        else:
            raise ValueError(f"`indices` must be None for {attr_name!r}, which all environments share. Received {indices!r}.")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call ``oracle_action`` or ``render`` of each environment; neither takes arguments.

        :raises AttributeError: for another method
        """
        methods = {"oracle_action": self._oracle_action, "render": self._render}
        if method_name not in methods:
            raise AttributeError(f"`method_name` must be one of {', '.join(map(repr, methods))}. Received {method_name!r}.")
        return [methods[method_name](i, *method_args, **method_kwargs) for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return False for each environment."""
        return [False for _ in self._get_indices(indices)]

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _oracle_action(self, i: int) -> int:
        return int(self.oracle_actions()[i])

    def _render(self, i: int) -> np.ndarray:
        self._require_reset()
        action = int(self._last_action[i])
        return draw(
            Scene(
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
                last_action=None if action == NO_ACTION else Action(action).name.lower(),
            )
        )

    def _require_reset(self) -> None:
        if not self._running:
            raise ResetNeeded("No episode is running: call `reset` first.")

    def _check_walk(self, n_steps: int, spare: int) -> int:
        self._require_reset()
        if self.config.active:
            raise ValueError("`active` must be False to look ahead or to move right many steps at once. Received True.")
        n_steps = check_integer("n_steps", n_steps, minimum=1)
        most = self.config.length - spare - int(self.steps.max())
        if n_steps > most:
            raise ValueError(f"`n_steps` must be at most {most} before the next deadline. Received {n_steps}.")
        return n_steps

    def _start_episode(self, rows: np.ndarray) -> None:
        self.turns[rows] = 0
        self.correct_turns[rows] = 0
        self._last_action[rows] = NO_ACTION
        self._start_corridor(rows)

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
        observations[:, 3] = self._noise[rows, self._cursor[rows]]
        return observations

    def _next_observations(self, rows: np.ndarray) -> np.ndarray:
        self._cursor[rows] += 1
        self._extend_noise(1)
        return self._observe(rows)

    def _extend_noise(self, n_values: int) -> None:
        """Hold the next ``n_values`` of every environment, from its cursor on, at the right end of the array."""
        missing = NOISE_BLOCK + n_values - 1 - self._noise.shape[1]
        if missing > 0:
            self._noise = np.pad(self._noise, ((0, 0), (missing, 0)))
            self._cursor += missing
        first_lacking = self._noise.shape[1] - n_values + 1
        for i in (self._cursor >= first_lacking).nonzero()[0].tolist():
            n_blocks = 1 + (int(self._cursor[i]) - first_lacking) // NOISE_BLOCK
            n_new = n_blocks * NOISE_BLOCK
            self._noise[i, :-n_new] = self._noise[i, n_new:]
            self._noise[i, -n_new:] = np.concatenate([draw_noise(self._noise_rngs[i]) for _ in range(n_blocks)])
            self._cursor[i] -= n_new

    def _shaping(self, progress: np.ndarray) -> np.ndarray | float:
        if self.config.reward == "penalty":
            return np.where(self.x < self.steps - self.config.detour, self.config.late_reward, 0.0)
        if self.config.reward == "eased":
            return np.where(progress, 0.0, self.config.idle_reward)
        return 0.0

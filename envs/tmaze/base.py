"""What T-Mazes of all kinds share beside their rules: pictures, and checks of when they can be asked what."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from ..arguments import check_integer
from ..drawing import Window
from ..native import NativeVecEnv
from .config import DX, DY, Action
from .noise import NoiseBatch
from .render import Scene, draw

NO_ACTION = -1
MOVES_X, MOVES_Y = np.array(DX), np.array(DY)  # by action


class MazeEnv(gymnasium.Env[np.ndarray, np.int64]):
    """
    A single T-Maze that can be drawn.

    :param render_mode: None, "human" or "rgb_array".
    :raises ValueError: For an unknown render mode.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "human", "rgb_array"):
            raise ValueError(f"`render_mode` must be None, 'human' or 'rgb_array'. Received {render_mode!r}.")
        self.render_mode = render_mode
        self._running = False
        self._window: Window | None = None

    @abstractmethod
    def _scene(self) -> Scene:
        """
        Describe the present moment.

        :raises ResetNeeded: Before the first reset.
        """

    def render(self) -> np.ndarray | None:
        """
        Draw the maze.

        :return: An RGB image, uint8 of shape (height, width, 3), in the mode "rgb_array", else None.
        :raises ResetNeeded: Before the first reset.
        :raises DependencyNotInstalled: Without pygame.
        """
        if self.render_mode is None:
            gymnasium.logger.warn("`render` does nothing without a `render_mode`, e.g. gymnasium.make(..., 'rgb_array').")
            return None
        image = draw(self._scene())
        if self.render_mode == "rgb_array":
            return image
        if self._window is None:
            self._window = Window("T-Maze", self.metadata["render_fps"])
        self._window.show(image)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _show(self) -> None:
        """Show the maze on screen as it goes on."""
        if self.render_mode == "human":
            self.render()

    def _require(self, condition: bool) -> None:
        if not condition:
            raise ResetNeeded("No episode is running: call `reset` first.")


class MazeConfig(Protocol):
    """What the arguments of all mazes have in common."""

    @property
    def length(self) -> int:
        """Step at which the deadline comes."""


class MazeVecEnv(NativeVecEnv):
    """
    A batch of T-Mazes that can be drawn, and whose corridors can be crossed many steps at a time.

    :param arguments: Of :class:`sb3_elmur.envs.native.NativeVecEnv`.
    """

    metadata = MazeEnv.metadata
    config: MazeConfig
    x: np.ndarray
    steps: np.ndarray
    corridor: np.ndarray

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._noise = NoiseBatch(self._rngs)
        self._last_action = np.full(self.num_envs, NO_ACTION)

    @abstractmethod
    def oracle_actions(self) -> np.ndarray:
        """
        Return the actions of an expert that knows the goals.

        :return: Int64, shape (n_envs,).
        :raises ResetNeeded: Before the first reset.
        """

    @abstractmethod
    def look_ahead(self, n_steps: int) -> np.ndarray:
        """
        Return the observations of agents that move right from here, without moving them.

        :param n_steps: Number of observations: the current one and the ``n_steps - 1`` next ones.
        :return: Float32, shape (n_envs, n_steps, ...).
        :raises ResetNeeded: Before the first reset.
        :raises ValueError: If an episode ends on the way.
        """

    @abstractmethod
    def quiet_steps(self) -> np.ndarray:
        """
        Count the steps ahead, the next included, before which agents see nothing but noise, wherever they go.

        A move right is rewarded with nothing in these steps, and no episode ends with them.

        :return: Int64, shape (n_envs,).
        """

    def move_right(self, n_steps: int) -> np.ndarray:
        """
        Move every agent right, as ``n_steps`` calls of ``step`` do; agents at the junction stay there.

        Rewards are not returned, and wrappers such as ``VecMonitor`` do not see these steps.

        :param n_steps: Number of moves.
        :return: The observations after them, shape (n_envs, ...).
        :raises ResetNeeded: Before the first reset.
        :raises ValueError: If an episode ends on the way.
        """
        n_steps = self._check_walk(n_steps)
        self._noise.skip(n_steps)
        self.x = np.minimum(self.x + n_steps, self.corridor)
        self.steps += n_steps
        self._last_action = np.full(self.num_envs, Action.RIGHT)
        return self._observe(self._all)

    @property
    def steps_to_deadline(self) -> int:
        """How many steps can be taken before any episode ends by its deadline."""
        return self.config.length - 1 - int(self.steps.max())

    @abstractmethod
    def _observe(self, rows: np.ndarray) -> np.ndarray:
        """What agents see at present, in the mazes of some rows (b,), (b, ...)."""

    @abstractmethod
    def _scene(self, i: int) -> Scene:
        """Describe the present moment of environment i."""

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Draw every maze, as :meth:`MazeEnv.render` does."""
        return self.env_method("render")

    def _seeded(self, i: int) -> None:
        self._noise.restart(i, self._rngs[i])

    def _next_observations(self, rows: np.ndarray) -> np.ndarray:
        self._noise.advance(rows)
        return self._observe(rows)

    def _name_of_last_action(self, i: int) -> str | None:
        action = int(self._last_action[i])
        return None if action == NO_ACTION else Action(action).name.lower()

    def _steps_in_corridor(self) -> np.ndarray:
        """Steps before which an agent cannot be at its junction, and with which its episode does not end, (n_envs,)."""
        return np.minimum(self.corridor - self.x, self.config.length - 1 - self.steps)

    def _methods(self) -> dict[str, Callable[..., Any]]:
        return {"oracle_action": self._oracle_action, "render": self._render}

    def _oracle_action(self, i: int) -> int:
        return int(self.oracle_actions()[i])

    def _render(self, i: int) -> np.ndarray:
        self._require_reset()
        return draw(self._scene(i))

    def _check_walk(self, n_steps: int, n_more: int = 0) -> int:
        """
        Check how far agents may walk.

        :param n_steps: What was asked for.
        :param n_more: Steps beyond those to the next deadline that are allowed.
        :return: The same number.
        """
        self._require_reset()
        n_steps = check_integer("n_steps", n_steps, minimum=1)
        most = self.steps_to_deadline + n_more
        if n_steps > most:
            raise ValueError(f"`n_steps` must be at most {most} before the next deadline. Received {n_steps}.")
        return n_steps

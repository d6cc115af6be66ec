"""What T-Mazes of all kinds share beside their rules: pictures, and checks of when they can be asked what."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from ..arguments import check_integer
from ..drawing import Window
from ..native import NativeVecEnv
from .render import Scene, draw


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


class MazeVecEnv(NativeVecEnv):
    """A batch of T-Mazes that can be drawn, and whose corridors can be crossed many steps at a time."""

    metadata = MazeEnv.metadata
    steps: np.ndarray

    @abstractmethod
    def oracle_actions(self) -> np.ndarray:
        """
        Return the actions of an expert that knows the goals.

        :return: Int64, shape (n_envs,).
        :raises ResetNeeded: Before the first reset.
        """

    @abstractmethod
    def _scene(self, i: int) -> Scene:
        """Describe the present moment of environment i."""

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Draw every maze, as :meth:`MazeEnv.render` does."""
        return self.env_method("render")

    def _methods(self) -> dict[str, Callable[..., Any]]:
        return {"oracle_action": self._oracle_action, "render": self._render}

    def _oracle_action(self, i: int) -> int:
        return int(self.oracle_actions()[i])

    def _render(self, i: int) -> np.ndarray:
        self._require_reset()
        return draw(self._scene(i))

    def _check_walk(self, n_steps: int, length: int, spare: int) -> int:
        """
        Check how far agents may walk.

        :param n_steps: What was asked for.
        :param length: Steps at which the first deadline comes.
        :param spare: Steps before it that must be left.
        :return: The same number.
        """
        self._require_reset()
        n_steps = check_integer("n_steps", n_steps, minimum=1)
        most = length - spare - int(self.steps.max())
        if n_steps > most:
            raise ValueError(f"`n_steps` must be at most {most} before the next deadline. Received {n_steps}.")
        return n_steps

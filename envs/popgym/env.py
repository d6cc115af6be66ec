"""POPGym's 48 memory tasks, wrapped for Stable-Baselines3."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled, ResetNeeded

from ..drawing import Window
from .experts import Expert, make_expert
from .render import PICTURES, Moment, draw
from .tasks import find_task
from .tried import TRIED, check_mask_tried


def import_popgym() -> ModuleType:
    """
    Import popgym's environments, the labyrinths among them.

    :return: Popgym's module of classes.
    :raises DependencyNotInstalled: If popgym or mazelib, which draws the labyrinths, is missing.
    """
    try:
        import_module("mazelib")
        return import_module("popgym.envs")
    except ModuleNotFoundError as error:
        raise DependencyNotInstalled(f'{error.name} is missing: run `pip install "sb3-elmur[popgym]"`.') from error


def flat_parts(space: spaces.Space) -> tuple[spaces.Space, ...]:
    """
    List the spaces that stand side by side in an observation space.

    :param space: Popgym's.
    :return: The parts of a ``Tuple``, or the only part.
    """
    return space.spaces if isinstance(space, spaces.Tuple) else (space,)


def join_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> spaces.Tuple:
    """
    Join the spaces of an observation, the action that led to it, and whether it is an episode's first.

    :param observation_space: Popgym's.
    :param action_space: Of the actions that agents take.
    :return: The parts of the observation, then the other two.
    """
    return spaces.Tuple((*flat_parts(observation_space), action_space, spaces.Discrete(2)))


def flatten_space(space: spaces.Tuple) -> spaces.Box:
    """
    Flatten a space.

    :param space: Of discrete parts, which become one-hot, and continuous ones.
    :return: The float32 vectors that hold its flattened elements.
    """
    box = spaces.flatten_space(space)
    assert isinstance(box, spaces.Box)
    return spaces.Box(box.low.astype(np.float32), box.high.astype(np.float32))


class GlobalStreams:
    """One owner's states of the generators that ``random`` and ``numpy.random`` share with the whole process."""

    def __init__(self) -> None:
        self._python: Any = random.Random().getstate()
        self._numpy: Any = np.random.RandomState().get_state()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let global draws come from these states, and put the process's own ones back afterwards."""
        python, numpy = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()
            random.setstate(python)
            np.random.set_state(numpy)


class POPGymEnv(gymnasium.Env[np.ndarray, Any]):
    """
    A task of POPGym, which hides a part of its state from every single observation.

    ## Description
    One of the 16 games and control problems of POPGym (https://arxiv.org/abs/2303.01859), at one of three levels, as the
    package ``popgym`` plays it. ``FAMILIES`` and ``LEVELS`` name them; `task` is a family and a level, such as
    "RepeatFirstEasy".

    ## Action Space
    The task's own: ``Discrete`` or ``Box`` (the Pendulums). Where a task takes row and column (Battleship, MineSweeper), cells
    are counted in reading order, as popgym's ``DiscreteAction`` does, so that a policy can tell which pairs belong together.

    ## Observation Space
    ``Box`` of float32, one vector: the task's observation, then the action that led to it, then whether this is an
    episode's first observation, each of them one-hot unless it is continuous. At an episode's start the action is 0. These are
    the values of popgym's own ``Flatten(Antialias(PreviousAction(env)))``, of ``DiscreteAction(env)`` where actions are cells.

    ## Rewards
    The task's own, scaled by popgym so that episodes return between -1 and 1.

    ## Starting State
    Drawn by the task. Every environment has its own random streams: also the labyrinths, which popgym draws from the
    process's global ones.

    ## Episode End
    As the task terminates or truncates. The infos are empty: popgym's would tell the hidden state.

    ## Arguments
    - `task`: name of the task.
    - `render_mode` (None): "human" or "rgb_array". Pictures of the games also show what is hidden from the agent.
    - `mask_tried` (False): in Battleship, MineSweeper and Concentration, `action_masks()` forbids what was already tried:
      cells that were uncovered, and cards that lie face up. Then the agent need not remember this: it is another task.

    ## Version History
    - v0: first version.

    :param task: One of ``TASKS``.
    :param render_mode: None, "human" or "rgb_array".
    :param mask_tried: Whether the environment has a method ``action_masks``.
    :raises ValueError: For an unknown task or render mode, or masks in a task that has none.
    :raises DependencyNotInstalled: Without popgym.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, task: str, render_mode: str | None = None, mask_tried: bool = False) -> None:
        self._facts = find_task(task)
        check_mask_tried(self._facts.family, mask_tried)
        if mask_tried:  # an environment has masks if it has this method
            self.action_masks = self._untried
        self.task = task
        self.base = getattr(import_popgym(), task)()
        if render_mode not in (None, "human", "rgb_array"):
            raise ValueError(f"`render_mode` must be None, 'human' or 'rgb_array'. Received {render_mode!r}.")
        self.render_mode = self.base.render_mode = render_mode
        base_actions: spaces.Space = self.base.action_space
        self._grid = tuple(base_actions.nvec) if isinstance(base_actions, spaces.MultiDiscrete) else None
        self.action_space = base_actions if self._grid is None else spaces.Discrete(np.prod(self._grid))
        self._space = join_spaces(self.base.observation_space, self.action_space)
        self.observation_space = flatten_space(self._space)
        self._null_action = np.zeros(self.action_space.shape or (), self.action_space.dtype)[()]
        self._streams = GlobalStreams()
        self._running = False
        self._expert: Expert | None = None
        self._latest: tuple[Any, Any] = (None, None)
        self._steps, self._reward, self._return = 0, 0.0, 0.0
        self._window: Window | None = None
        self._unseen: list[tuple[Any, Any]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: Restarts the random streams, at most 2**32 - 1 for a labyrinth; None continues them.
        :param options: Unused.
        :return: The first observation and an empty info.
        """
        super().reset(seed=seed)
        with self._streams.in_place():
            observation, _ = self.base.reset(seed=seed)
        self._running = True
        self._latest = observation, None
        self._unseen = [self._latest]
        self._steps, self._reward, self._return = 0, 0.0, 0.0
        self._show()
        return self._flatten(observation, self._null_action, first=True), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Take an action.

        :param action: An element of the action space.
        :return: Observation, reward, terminated, truncated, and an empty info.
        :raises ResetNeeded: Before the first reset and after the end of an episode.
        :raises ValueError: If ``action`` is not in the action space.
        """
        self._require_running()
        received = action
        if isinstance(self.action_space, spaces.Box):
            action = np.asarray(action, dtype=self.action_space.dtype)
        if not self.action_space.contains(action):
            raise ValueError(f"`action` must be in {self.action_space}. Received {received!r}.")
        action = np.array(action, dtype=self.action_space.dtype)[()]
        base_action = action if self._grid is None else np.array(np.unravel_index(action, self._grid))
        observation, reward, terminated, truncated, _ = self.base.step(base_action)
        self._running = not (terminated or truncated)
        self._latest = observation, base_action
        self._unseen.append(self._latest)
        self._steps, self._reward, self._return = self._steps + 1, float(reward), self._return + float(reward)
        self._show()
        return self._flatten(observation, action, first=False), self._reward, bool(terminated), bool(truncated), {}

    def oracle_action(self) -> Any:
        """
        Return the action of the task's scripted expert, which sees the observations and nothing else.

        :return: An element of the action space.
        :raises ResetNeeded: Before the first reset and after the end of an episode.
        """
        self._require_running()
        if self._expert is None:
            self._expert = make_expert(self.task)
        for observation, action in self._unseen:
            self._expert.observe(observation, action)
        self._unseen = []
        action = self._expert.act()
        return action if self._grid is None else int(np.ravel_multi_index(action, self._grid))

    def _untried(self) -> np.ndarray:
        """Which actions were not tried yet, (n,) bool."""
        return ~TRIED[self._facts.family](self.base)

    def render(self) -> np.ndarray | None:
        """
        Draw the task: of a game also what is hidden from the agent, the last action and the reward.

        :return: An RGB image, uint8 of shape (height, width, 3), in the mode "rgb_array", else None.
        :raises ResetNeeded: Before the first reset.
        :raises DependencyNotInstalled: Without pygame.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(
                "`render` does nothing without a `render_mode`, e.g. gymnasium.make(..., render_mode='human')."
            )
            return None
        if self._latest[0] is None:
            raise ResetNeeded("No episode has begun: call `reset` first.")
        if self._facts.family not in PICTURES:
            return self.base.render()
        moment = Moment(self.task, self._facts, self.base, *self._latest, self._steps, self._reward, self._return)
        image = draw(moment)
        if self.render_mode == "rgb_array":
            return image
        if self._window is None:
            self._window = Window(self.task, self.metadata["render_fps"])
        self._window.show(image)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        self.base.close()
        if self._window is not None:
            self._window.close()
            self._window = None

    def _show(self) -> None:
        """Show a game on screen as it goes on; popgym's own environments do so themselves."""
        if self.render_mode == "human" and self._facts.family in PICTURES:
            self.render()

    def _require_running(self) -> None:
        if not self._running:
            raise ResetNeeded("No episode is running: call `reset` first.")

    def _flatten(self, observation: Any, action: Any, first: bool) -> np.ndarray:
        parts = observation if isinstance(observation, tuple) else (observation,)
        return np.asarray(spaces.flatten(self._space, (*parts, action, int(first))), dtype=np.float32)

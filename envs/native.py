"""What native batches share: many environments that step together in NumPy, as a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from .arguments import check_integer


def action_bounds(space: spaces.Space) -> tuple[np.ndarray, np.ndarray]:
    """
    Find the smallest and the largest action.

    :param space: A ``Box`` or ``Discrete``.
    :return: Both, of the shape of an action.
    """
    if isinstance(space, spaces.Box):
        return space.low, space.high
    assert isinstance(space, spaces.Discrete)
    return np.zeros_like(space.n), np.array(space.n - 1)


class BatchVecEnv(VecEnv):
    """
    Environments that are one object: their generators, and what is asked of each of them.

    :cvar STATE: Names of arrays that hold one integer for each environment.
    :param n_envs: Number of environments.
    :param observation_space: Of a single environment.
    :param action_space: Of a single environment.
    :param seed: Seed of the first environment; None seeds from the operating system.
    """

    STATE: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, n_envs: int, observation_space: spaces.Space, action_space: spaces.Space, seed: int | None = None
    ) -> None:
        super().__init__(n_envs, observation_space, action_space)
        self._rngs = [seeding.np_random(None)[0] for _ in range(n_envs)]
        self._running = False
        if seed is not None:
            self.seed(seed)

    def _seeded(self, i: int) -> None:
        """Prepare what depends on the generator of environment i, which is new."""

    def _methods(self) -> dict[str, Callable[..., Any]]:
        """Return what :meth:`env_method` can call, with the environment's index as the first argument."""
        return {}

    def _begin(self) -> None:
        """Make the generators of the seeds that were given since the last reset."""
        for i, seed in enumerate(self._seeds):
            if seed is not None:
                self._rngs[i], _ = seeding.np_random(seed)
                self._seeded(i)
        self._reset_seeds()
        self._reset_options()
        self._running = True

    def _require_reset(self) -> None:
        if not self._running:
            raise ResetNeeded("No episode is running: call `reset` first.")

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        Return an attribute of each environment: its own value of the state, or a method of it, else the common value.

        :param attr_name: Its name.
        :param indices: Environments; None stands for all.
        :return: A value for each environment.
        """
        method = self._methods().get(attr_name)
        if method is not None:
            return [partial(method, i) for i in self._get_indices(indices)]
        value = getattr(self, attr_name)
        return [int(value[i]) if attr_name in self.STATE else value for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute.

        :param attr_name: Name of a state array, or of an attribute that all environments share.
        :param value: The new value.
        :param indices: Environments to change; state only.
        :raises ValueError: If a shared attribute is to change in some environments only.
        """
        if attr_name in self.STATE:
            getattr(self, attr_name)[list(self._get_indices(indices))] = value
        elif indices is None:
            setattr(self, attr_name, value)
        else:
            raise ValueError(f"`indices` must be None for {attr_name!r}, which all environments share. Received {indices!r}.")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """
        Call a method of each environment.

        :param method_name: Its name.
        :param method_args: Its arguments.
        :param indices: Environments; None stands for all.
        :param method_kwargs: Its arguments by name.
        :return: What it returned, for each environment.
        :raises AttributeError: For a method that single environments of this batch do not have.
        """
        methods = self._methods()
        if method_name not in methods:
            known = ", ".join(map(repr, methods)) or "none"
            raise AttributeError(f"`method_name` must be one of {known}. Received {method_name!r}.")
        return [methods[method_name](i, *method_args, **method_kwargs) for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        Tell that no environment is wrapped.

        :param wrapper_class: Any.
        :param indices: Environments; None stands for all.
        :return: False for each environment.
        """
        return [False for _ in self._get_indices(indices)]


class NativeVecEnv(BatchVecEnv):
    """
    ``n_envs`` environments that step together, equal step by step to a ``DummyVecEnv`` of the single one.

    After ``seed(s)``, environment i draws from ``self._rngs[i]`` what the single environment draws after
    ``reset(seed=s + i)``. A subclass implements :meth:`_start` and :meth:`_step`, and sets what it needs for
    :meth:`get_attr` before it calls this constructor.

    :param n_envs: Number of environments.
    :param observation_space: Of a single environment.
    :param action_space: Of a single environment.
    :param render_mode: None or "rgb_array".
    :param seed: Seed of the first environment; None seeds from the operating system.
    :raises ValueError: For an unknown render mode, or ``n_envs`` below 1.
    """

    def __init__(
        self,
        n_envs: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        render_mode: str | None = None,
        seed: int | None = None,
    ) -> None:
        n_envs = check_integer("n_envs", n_envs, minimum=1)
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"`render_mode` must be None or 'rgb_array'. Received {render_mode!r}.")
        self.render_mode = render_mode
        super().__init__(n_envs, observation_space, action_space, seed)
        self._all = np.arange(n_envs)
        self._low, self._high = action_bounds(action_space)
        self._actions = np.zeros((n_envs, *self._low.shape), dtype=action_space.dtype)

    @classmethod
    def supports(cls, **arguments: Any) -> bool:
        """Tell whether the batch plays the single environment of these arguments."""
        return True

    @abstractmethod
    def _start(self, rows: np.ndarray) -> np.ndarray:
        """
        Start an episode in some environments.

        :param rows: Their indices.
        :return: Their first observations.
        """

    @abstractmethod
    def _step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """
        Take a step in every environment.

        :param actions: Valid actions, shape (n_envs, ...).
        :return: Observations, which are this call's own, float32 rewards, terminated and truncated.
        """

    def _summary(self, i: int) -> dict[str, Any]:
        """Return what the last info of an episode of environment i says."""
        return {}

    def reset(self) -> np.ndarray:
        """
        Start an episode in every environment, with the seeds given since the last reset.

        :return: Observations, shape (n_envs, ...).
        """
        self._begin()
        return self._start(self._all)

    def step_async(self, actions: np.ndarray) -> None:
        """
        Take the actions of the next step.

        :param actions: Elements of the action space, shape (n_envs, ...).
        :raises ResetNeeded: Before the first reset.
        :raises ValueError: For actions of another shape, type or range.
        """
        self._require_reset()
        actions = np.asarray(actions)
        expected = self._actions
        kinds, name = ("f", "floats") if expected.dtype.kind == "f" else ("iu", "integers")
        if actions.shape != expected.shape or actions.dtype.kind not in kinds:
            raise ValueError(
                f"`actions` must be {name} of shape {expected.shape}. Received {actions.dtype} of shape {actions.shape}."
            )
        outside = ~((actions >= self._low) & (actions <= self._high))
        if outside.any():
            raise ValueError(f"`actions` must be {name} from {self._low} to {self._high}. Received {actions[outside][0]}.")
        self._actions = actions.astype(expected.dtype)

    def step_wait(self) -> VecEnvStepReturn:
        """
        Take the step that :meth:`step_async` said; an environment that ends starts its next episode at once.

        :return: Observations of shape (n_envs, ...), rewards and dones of shape (n_envs,), and one info per environment.
        """
        observations, rewards, terminated, truncated = self._step(self._actions)
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        ended = dones.nonzero()[0]
        if ended.size:
            for i, finished, last in zip(ended.tolist(), terminated[ended].tolist(), observations[ended], strict=True):
                infos[i] = {"TimeLimit.truncated": not finished, "terminal_observation": last, **self._summary(i)}
            observations[ended] = self._start(ended)
        return observations, rewards, dones, infos

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

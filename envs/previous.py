"""The previous action and reward as a part of the observation, for single environments and for batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvObs, VecEnvStepReturn, VecEnvWrapper

from .flattening import FlatPart

ACTION, REWARD, OBSERVATION = "previous_action", "previous_reward", "observation"
ACTION_SPACES = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)


class Joining:
    """
    How observations and what came before them become one observation.

    A vector gets the previous action and the previous reward as further numbers. A Dict gets the keys "previous_action" and
    "previous_reward". Any other observation, such as an image, becomes such a Dict, under the key "observation".
    Discrete actions are one-hot. At an episode's start all these numbers are 0, which no discrete action is.

    :param observation_space: Of the environment.
    :param action_space: Of the environment.
    :raises ValueError: If the action space is none of ``ACTION_SPACES``, or a Dict has one of the keys already.
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        if not isinstance(action_space, ACTION_SPACES):
            names = ", ".join(space.__name__ for space in ACTION_SPACES)
            raise ValueError(f"`action_space` must be one of {names}. Received {action_space}.")
        self._part = FlatPart(action_space, 0)
        self.n_action = self._part.end
        flat = spaces.flatten_space(action_space)
        assert isinstance(flat, spaces.Box)
        low, high = np.minimum(flat.low, 0).astype(np.float32), np.maximum(flat.high, 0).astype(np.float32)
        action, reward = spaces.Box(low, high), spaces.Box(-np.inf, np.inf, (1,))
        self._flat = isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1
        self._keyed = isinstance(observation_space, spaces.Dict)
        self.observation_space: spaces.Space
        if self._flat:
            boxes = observation_space, action, reward
            low, high = (np.concatenate([getattr(box, bound) for box in boxes]) for bound in ("low", "high"))
            self.observation_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
            return
        parts = dict(observation_space) if self._keyed else {OBSERVATION: observation_space}  # type: ignore[call-overload]
        if ACTION in parts or REWARD in parts:
            raise ValueError(f"`observation_space` must not have the keys {ACTION!r} and {REWARD!r}. Received {list(parts)}.")
        self.observation_space = spaces.Dict(parts | {ACTION: action, REWARD: reward})

    def flatten(self, actions: np.ndarray) -> np.ndarray:
        """
        Flatten actions.

        :param actions: Elements of the action space, shape (B, ...).
        :return: Float32 of shape (B, n), one-hot where the space is discrete.
        """
        flat = np.zeros((len(actions), self.n_action), dtype=np.float32)
        self._part.write(flat, actions)
        return flat

    def join(self, observations: Any, actions: np.ndarray, rewards: np.ndarray) -> Any:
        """
        Join observations with what came before them.

        :param observations: Of the environment, each (B, ...).
        :param actions: Flat previous actions, shape (B, n).
        :param rewards: Previous rewards, shape (B,).
        :return: Elements of ``observation_space``, each (B, ...).
        """
        rewards = np.asarray(rewards, dtype=np.float32)[:, None]  # (B, 1)
        if self._flat:
            return np.concatenate([observations, actions, rewards], axis=1, dtype=np.float32)  # (B, n_observed + n + 1)
        parts = observations if self._keyed else {OBSERVATION: observations}
        return {**parts, ACTION: actions, REWARD: rewards}

    def join_one(self, observation: Any, action: np.ndarray, reward: float) -> Any:
        """
        Join one observation with what came before it.

        :param observation: Of the environment.
        :param action: Flat previous action, shape (n,).
        :param reward: Previous reward.
        :return: An element of ``observation_space``.
        """
        batch = map_arrays(lambda value: np.asarray(value)[None], observation)
        return map_arrays(lambda values: values[0], self.join(batch, action[None], np.array([reward])))


class PreviousActionReward(gymnasium.Wrapper):
    """
    Show the previous action and reward beside each observation, as :class:`Joining` says.

    In YAML: ``env_wrapper: sb3_elmur.envs.previous.PreviousActionReward``.

    :param env: The environment.
    :raises ValueError: For spaces that :class:`Joining` refuses.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._joining = Joining(env.observation_space, env.action_space)
        self.observation_space = self._joining.observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Start an episode.

        :param seed: See the environment.
        :param options: See the environment.
        :return: The first observation, with zeros for action and reward, and the info.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        return self._joining.join_one(observation, np.zeros(self._joining.n_action, dtype=np.float32), 0.0), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """
        Take a step.

        :param action: An element of the action space.
        :return: Observation, reward, terminated, truncated and info; the observation holds the action and the reward.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        flat = self._joining.flatten(np.asarray(action)[None])[0]
        return self._joining.join_one(observation, flat, float(reward)), reward, terminated, truncated, info


class VecPreviousActionReward(VecEnvWrapper):
    """
    The same for a batch, such as a native one.

    In YAML: ``vec_env_wrapper: sb3_elmur.envs.previous.VecPreviousActionReward``.

    :param venv: The batch.
    :raises ValueError: For spaces that :class:`Joining` refuses.
    """

    def __init__(self, venv: VecEnv) -> None:
        self._joining = Joining(venv.observation_space, venv.action_space)
        super().__init__(venv, observation_space=self._joining.observation_space)
        self._actions = np.zeros((self.num_envs, self._joining.n_action), dtype=np.float32)

    def reset(self) -> VecEnvObs:
        """
        Start an episode in every environment.

        :return: First observations, with zeros for actions and rewards, each (n_envs, ...).
        """
        return self._joining.join(self.venv.reset(), np.zeros_like(self._actions), np.zeros(self.num_envs))

    def step_async(self, actions: np.ndarray) -> None:
        """
        Take the actions of the next step.

        :param actions: Elements of the action space, shape (n_envs, ...).
        """
        self._actions = self._joining.flatten(np.asarray(actions))
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """
        Take the step; the last observation of an episode, in the info, holds its last action and reward.

        :return: Observations, rewards and dones, each (n_envs, ...), and one info per environment.
        """
        observations, rewards, dones, infos = self.venv.step_wait()
        for i in dones.nonzero()[0]:
            last = infos[i]["terminal_observation"]
            infos[i]["terminal_observation"] = self._joining.join_one(last, self._actions[i], rewards[i])
        running = ~dones
        return self._joining.join(observations, self._actions * running[:, None], rewards * running), rewards, dones, infos


def map_arrays(function: Callable[[Any], Any], observation: Any) -> Any:
    """
    Apply a function to an observation.

    :param function: Of an array.
    :param observation: An array, or a dict of arrays.
    :return: What the function returned, by the same keys.
    """
    if isinstance(observation, dict):
        return {key: function(value) for key, value in observation.items()}
    return function(observation)

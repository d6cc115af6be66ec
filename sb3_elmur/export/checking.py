"""Whether an exported file acts as the policy does."""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_elmur.core.states import PolicyState
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.spaces import map_observations

STATE = "state."  # begins the names of the inputs that are its parts
_BATCH, _RESETS = 3, 0.05  # rows, and the probability with which an episode of each begins at a step
_FARTHEST = 1e6  # of observations that are drawn: bounds that stand for none lie where any network overflows
_TOLERANCE = 1e-4  # relative to 1 + the number
_TIES = 0.01  # of discrete actions: those whose probabilities are equal to rounding
_NUMBERS = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class Session:
    """
    An exported file that is run by onnxruntime, on one thread.

    :param path: The file.
    """

    def __init__(self, path: Path) -> None:
        onnxruntime = import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._states = [argument for argument in self._session.get_inputs() if argument.name.startswith(STATE)]

    def empty_state(self, batch: int) -> dict[str, np.ndarray]:
        """Zeros, with which any episode may begin."""
        return {state.name: np.zeros((batch, *state.shape[1:]), _NUMBERS[state.type]) for state in self._states}

    def step(
        self, observation: Any, episode_start: np.ndarray, state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """
        Act once.

        :param observation: (B, ...), or a dictionary of them.
        :param episode_start: (B,) bool, true where an episode begins.
        :param state: Of the call before, by name.
        :return: Actions (B, ...), values (B,), and the next state.
        """
        parts = {"observation": observation}
        if isinstance(observation, dict):
            parts = {f"observation.{key}": values for key, values in observation.items()}
        action, value, *after = self._session.run(None, {**parts, "episode_start": episode_start, **state})
        return action, value, dict(zip(state, after, strict=True))


def draw_observations(space: spaces.Space, batch: int) -> Any:
    """
    Draw observations.

    :param space: Whose they are.
    :param batch: How many (B).
    :return: (B, ...), or a dictionary of them.
    """

    def stacked(*rows: Any) -> np.ndarray:
        values = np.stack(rows)
        return values.clip(-_FARTHEST, _FARTHEST) if values.dtype.kind == "f" else values

    return map_observations(stacked, *(space.sample() for _ in range(batch)))


class Differences(NamedTuple):
    """
    By how much a file and a policy differ.

    :param actions: Relative to 1 + their size, (steps, B, ...); for discrete actions 1 where they are others.
    :param values: Relative to 1 + their size, (steps, B).
    """

    actions: np.ndarray
    values: np.ndarray


def check_file(path: Path, policy: ElmurPolicy, normalize: VecNormalize | None) -> None:
    """
    Compare a file to its policy for random observations over more than two segments.

    :param path: The file.
    :param policy: On the CPU, in evaluation mode.
    :param normalize: Statistics that the file has.
    :raises ValueError: If they differ by more than rounding.
    """
    steps = 2 * policy.config.segment_length + 3
    actions, values = compare(path, policy, normalize, steps)
    same = actions.max() <= _TOLERANCE if isinstance(policy.action_space, spaces.Box) else actions.mean() <= _TIES
    if not same or values.max() > _TOLERANCE:
        raise ValueError(
            f"`policy` must act as its exported form does. Received one whose actions differ by up to {actions.max():.1g}, "
            f"and whose values by up to {values.max():.1g} of their size, within {steps} steps."
        )


@th.no_grad()
def compare(path: Path, policy: ElmurPolicy, normalize: VecNormalize | None, steps: int) -> Differences:
    """
    Step a file and its policy side by side with random observations; episodes begin at random steps.

    :param path: The file.
    :param policy: On the CPU, in evaluation mode.
    :param normalize: Statistics that the file has.
    :param steps: How many.
    :return: By how much they differ.
    """
    rng = np.random.default_rng(0)
    policy.observation_space.seed(0)
    session = Session(path)
    state = session.empty_state(_BATCH)
    pi = policy.backbone.core.initial_state(_BATCH)
    expected_state = PolicyState(pi, pi)
    if policy.critic_backbone is not None:
        expected_state = PolicyState(pi, policy.critic_backbone.core.initial_state(_BATCH))
    actions, values = [], []
    for step in range(steps):
        starts = (rng.random(_BATCH) < _RESETS) | (step == 0)
        obs = draw_observations(policy.observation_space, _BATCH)
        action, value, state = session.step(obs, starts, state)
        tensors, _ = policy.obs_to_tensor(obs if normalize is None else normalize.normalize_obs(obs))
        chosen, expected_value, _, after = policy.forward(tensors, expected_state, th.as_tensor(starts), deterministic=True)
        assert isinstance(after, PolicyState)
        expected_state = after
        if isinstance(policy.action_space, spaces.Box):
            actions.append(_difference(action, policy.to_bounds(chosen.numpy())))
        else:
            actions.append(action != chosen.numpy())
        values.append(_difference(value, expected_value.numpy()[:, 0]))
    return Differences(np.stack(actions), np.stack(values))


def _difference(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.abs(values - expected) / (1.0 + np.abs(expected))

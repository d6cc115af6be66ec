"""The control tasks of POPGym: CartPole and Pendulum with velocities or positions hidden, and with noise."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from gymnasium import spaces

from .batched import BatchedTask, EpisodeDraws


class CartPole(BatchedTask):
    """
    Balance a pole (Gymnasium's CartPole-v1) without seeing all of the state.

    :param n_envs: Number of episodes.
    :param limit: Step limit.
    :param velocities: Whether the two velocities are shown, but for the first observation, instead of the two positions.
    """

    GRAVITY, FORCE, TAU, HALF_LENGTH = 9.8, 10.0, 0.02, 0.5
    POLE_MASS, TOTAL_MASS = 0.1, 1.1
    X_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * math.pi / 360

    def __init__(self, n_envs: int, limit: int, velocities: bool = False) -> None:
        high = np.array([np.inf, np.inf] if velocities else [2 * self.X_LIMIT, 2 * self.ANGLE_LIMIT], dtype=np.float32)
        self.observation_space: spaces.Box
        super().__init__(n_envs, spaces.Box(-high, high), spaces.Discrete(2))
        self.limit = limit
        self.shown = slice(1, None, 2) if velocities else slice(0, None, 2)
        self.state = np.zeros((n_envs, 4))

    def start(self, row: int, rng: np.random.Generator) -> None:
        """See :class:`BatchedTask`."""
        self.state[row] = rng.uniform(-0.05, 0.05, size=4)
        self.steps[row] = 0
        self.observation[row] = self.state[row, ::2]

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`BatchedTask`."""
        _, x_dot, theta, theta_dot = self.state.T
        force = np.where(actions == 1, self.FORCE, -self.FORCE)
        sin, cos = np.sin(theta), np.cos(theta)
        pole = self.POLE_MASS * self.HALF_LENGTH
        push = (force + pole * np.square(theta_dot) * sin) / self.TOTAL_MASS
        inertia = self.HALF_LENGTH * (4.0 / 3.0 - self.POLE_MASS * np.square(cos) / self.TOTAL_MASS)
        theta_acc = (self.GRAVITY * sin - cos * push) / inertia
        x_acc = push - pole * theta_acc * cos / self.TOTAL_MASS
        moves = np.stack([x_dot, x_acc, theta_dot, theta_acc], axis=1)
        self.state = self.state + self.TAU * moves
        self.steps += 1
        self.observation = self.state[:, self.shown].astype(np.float32)
        fallen = np.any(np.abs(self.state[:, ::2]) > (self.X_LIMIT, self.ANGLE_LIMIT), axis=1)
        return np.full(len(self.rows), 1.0 / self.limit), fallen, self.steps >= self.limit


class Pendulum(BatchedTask):
    """
    Swing a pendulum up (Gymnasium's Pendulum-v1) without seeing its velocity.

    :param n_envs: Number of episodes.
    :param limit: Step limit.
    """

    MAX_SPEED, MAX_TORQUE, DT, GRAVITY = 8, 2.0, 0.05, 10.0
    WORST_REWARD = -16.2736044
    START = np.array([math.pi, 1.0])

    def __init__(self, n_envs: int, limit: int) -> None:
        self.observation_space: spaces.Box
        torque = spaces.Box(-self.MAX_TORQUE, self.MAX_TORQUE, (1,))
        super().__init__(n_envs, spaces.Box(-1.0, 1.0, (2,)), torque)
        self.limit = limit
        self.state = np.zeros((n_envs, 2))

    def start(self, row: int, rng: np.random.Generator) -> None:
        """See :class:`BatchedTask`."""
        self.state[row] = rng.uniform(-self.START, self.START)
        self.steps[row] = 0
        angle = self.state[row, 0]
        self.observation[row] = np.cos(angle), np.sin(angle)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`BatchedTask`."""
        angle, speed = self.state.T
        torque = actions[:, 0]
        upright = (angle + np.pi) % (2 * np.pi) - np.pi
        costs = upright**2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = speed + (1.5 * self.GRAVITY * np.sin(angle) + 3.0 * torque) * self.DT
        speed = np.clip(speed, -self.MAX_SPEED, self.MAX_SPEED)
        angle = angle + speed * self.DT
        self.state = np.stack([angle, speed], axis=1)
        self.steps += 1
        self.observation = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        half = -self.WORST_REWARD / 2
        return (half - costs) / half / self.limit, self.never(), self.steps >= self.limit


def draw_noise(sigma: float, rng: np.random.Generator, n_steps: int) -> np.ndarray:
    """
    Draw the noise of some steps.

    :param sigma: Standard deviation.
    :param rng: Source of the draws.
    :param n_steps: Number of steps T.
    :return: Noise on both positions, shape (T, 2).
    """
    return sigma * rng.standard_normal((n_steps, 2))


class Noisy(BatchedTask):
    """
    A control task that shows its positions with Gaussian noise.

    :param n_envs: Number of episodes.
    :param task: The task without noise.
    :param limit: Step limit.
    :param sigma: Standard deviation of the noise.
    """

    def __init__(self, n_envs: int, task: type[CartPole] | type[Pendulum], limit: int, sigma: float) -> None:
        self.task = task(n_envs, limit)
        super().__init__(n_envs, self.task.observation_space, self.task.action_space)
        self.steps = self.task.steps
        self.low, self.high = self.task.observation_space.low, self.task.observation_space.high
        self.noise = np.zeros((n_envs, limit + 1, 2), dtype=np.float32)
        self._draws = EpisodeDraws(n_envs, partial(draw_noise, sigma))

    def start(self, row: int, rng: np.random.Generator) -> None:
        """See :class:`BatchedTask`."""
        self._draws.catch_up(row, rng, self.steps[row] + 1)
        self.task.start(row, rng)
        self.noise[row] = self._draws.ahead(row, rng, self.noise.shape[1])
        self._show(np.array([row]))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`BatchedTask`."""
        result = self.task.step(actions)
        self._show(self.rows)
        return result

    def _show(self, rows: np.ndarray) -> None:
        noisy = self.task.observation[rows] + self.noise[rows, self.steps[rows]]
        self.observation[rows] = np.clip(noisy, self.low, self.high)

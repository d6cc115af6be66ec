"""Experts of the six Pendulum tasks: two ways to estimate the state, one controller."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from .base import Expert
from .swing_up import GRAVITY, MAX_SPEED, MAX_TORQUE, TIME_STEP, predict, swing_up, wrap

START_SPEED = 1.0


class PendulumExpert(Expert):
    """Apply the torque that swings the estimated state up."""

    _theta: float
    _omega: float

    def act(self) -> np.ndarray:
        """Return the torque (N m), shape (1,)."""
        return np.array([swing_up(self._theta, self._omega)], dtype=np.float32)

    def _start(self, observation: np.ndarray) -> None:
        self._theta = float(np.arctan2(observation[1], observation[0]))
        self._omega = 0.0

    @abstractmethod
    def _update(self, observation: np.ndarray, action: np.ndarray) -> None: ...


class PositionOnlyPendulum(PendulumExpert):
    """By semi-implicit Euler steps, the difference of two angles is the exact angular velocity."""

    def _update(self, observation: np.ndarray, action: np.ndarray) -> None:
        before = self._theta
        self._theta = float(np.arctan2(observation[1], observation[0]))
        speed = float(wrap(self._theta - before)) / TIME_STEP
        self._omega = min(max(speed, -MAX_SPEED), MAX_SPEED)


class NoisyPositionOnlyPendulum(PendulumExpert):
    """
    Extended Kalman filter on angle and angular velocity.

    Of an observation (cosine, sine) it uses the part along the circle, which measures the angle with the same noise.

    :param sigma: Standard deviation of the noise on cosine and sine.
    """

    DRIFT = np.diag([0.0, 1e-4])
    FIRST_ANGLE_VARIANCE = 1.5

    def __init__(self, sigma: float) -> None:
        self._noise_variance = sigma**2

    def _start(self, observation: np.ndarray) -> None:
        super()._start(observation)
        self._covariance = np.diag([self.FIRST_ANGLE_VARIANCE * self._noise_variance, START_SPEED**2 / 3])

    def _update(self, observation: np.ndarray, action: np.ndarray) -> None:
        acceleration = TIME_STEP * GRAVITY * np.cos(self._theta)
        transition = np.array([[1 + TIME_STEP * acceleration, TIME_STEP], [acceleration, 1.0]])
        covariance = transition @ self._covariance @ transition.T + self.DRIFT
        theta, omega = predict(self._theta, self._omega, float(np.clip(action[0], -MAX_TORQUE, MAX_TORQUE)))
        surprise = observation[1] * np.cos(theta) - observation[0] * np.sin(theta)
        gain = covariance[:, 0] / (covariance[0, 0] + self._noise_variance)
        self._covariance = covariance - np.outer(gain, covariance[0])
        self._theta = float(wrap(theta + gain[0] * surprise))
        self._omega = float(np.clip(omega + gain[1] * surprise, -MAX_SPEED, MAX_SPEED))

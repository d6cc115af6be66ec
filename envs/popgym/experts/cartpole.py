"""Experts of the nine CartPole tasks: three ways to estimate the state, one linear controller."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import numpy as np

from .base import Expert

GRAVITY = 9.8
CART_MASS = 1.0
POLE_MASS = 0.1
HALF_POLE = 0.5
FORCE = 10.0
TIME_STEP = 0.02
START_RANGE = 0.05

TOTAL_MASS = CART_MASS + POLE_MASS


class CartPoleState(NamedTuple):
    """State of Gymnasium's CartPole: cart position (m), velocity (m/s), pole angle (rad), angular velocity (rad/s)."""

    x: float
    v: float
    theta: float
    omega: float


def accelerations(theta: float, omega: float, action: int) -> tuple[float, float]:
    """
    Compute accelerations as Gymnasium does.

    :param theta: Angle of the pole (rad).
    :param omega: Its angular velocity (rad/s).
    :param action: 0 to push left, 1 to push right.
    :return: Acceleration of the cart (m/s^2), angular acceleration of the pole (rad/s^2).
    """
    sine, cosine = math.sin(theta), math.cos(theta)
    push = (math.copysign(FORCE, action - 0.5) + POLE_MASS * HALF_POLE * omega**2 * sine) / TOTAL_MASS
    angular = (GRAVITY * sine - cosine * push) / (HALF_POLE * (4 / 3 - POLE_MASS * cosine**2 / TOTAL_MASS))
    return push - POLE_MASS * HALF_POLE * angular * cosine / TOTAL_MASS, angular


def predict(state: CartPoleState, action: int) -> CartPoleState:
    """
    Make one explicit Euler step.

    :param state: The state before it.
    :param action: 0 to push left, 1 to push right.
    :return: The state after it.
    """
    x, v, theta, omega = state
    linear, angular = accelerations(theta, omega, action)
    return CartPoleState(x + TIME_STEP * v, v + TIME_STEP * linear, theta + TIME_STEP * omega, omega + TIME_STEP * angular)


class CartPoleExpert(Expert):
    """
    Push to the side on which a weighted sum of the estimated state lies.

    The weights, smaller for the angular velocity than those of a linear-quadratic regulator, balance longest under noise.
    """

    WEIGHTS = CartPoleState(0.01, 0.04, 1.0, 0.2)

    _state: CartPoleState

    def act(self) -> int:
        """Return 0 to push left or 1 to push right."""
        return int(sum(weight * value for weight, value in zip(self.WEIGHTS, self._state, strict=True)) > 0)

    def _start(self, observation: np.ndarray) -> None:
        x, theta = observation.tolist()
        self._state = CartPoleState(x, 0.0, theta, 0.0)

    @abstractmethod
    def _update(self, observation: np.ndarray, action: int) -> None: ...


class PositionOnlyCartPole(CartPoleExpert):
    """By explicit Euler steps, the difference of two positions is the exact velocity before the last push."""

    def _update(self, observation: np.ndarray, action: int) -> None:
        before = self._state
        x, theta = observation.tolist()
        velocities = (x - before.x) / TIME_STEP, (theta - before.theta) / TIME_STEP
        self._state = predict(CartPoleState(before.x, velocities[0], before.theta, velocities[1]), action)


class VelocityOnlyCartPole(CartPoleExpert):
    """
    Sum up velocities, starting from the first observation, which holds positions.

    The unknown first velocity is the second observation less what the first push added.
    """

    def _start(self, observation: np.ndarray) -> None:
        super()._start(observation)
        self._moving = False

    def _update(self, observation: np.ndarray, action: int) -> None:
        v, omega = observation.tolist()
        before = self._state
        if not self._moving:
            linear, angular = accelerations(before.theta, before.omega, action)
            before = before._replace(v=v - TIME_STEP * linear, omega=omega - TIME_STEP * angular)
            self._moving = True
        self._state = CartPoleState(before.x + TIME_STEP * before.v, v, before.theta + TIME_STEP * before.omega, omega)


class NoisyPositionOnlyCartPole(CartPoleExpert):
    """
    Balances by a Kalman filter.

    Its covariance follows the dynamics linearised at the upright pole, so that its gains depend on time alone. A particle
    filter balances no longer.

    :param sigma: Standard deviation of the noise on both positions (m, rad).
    """

    ANGULAR_STIFFNESS = GRAVITY / (HALF_POLE * (4 / 3 - POLE_MASS / TOTAL_MASS))
    TRANSITION = np.eye(4) + TIME_STEP * np.array(
        [
            [0, 1, 0, 0],
            [0, 0, -POLE_MASS * HALF_POLE * ANGULAR_STIFFNESS / TOTAL_MASS, 0],
            [0, 0, 0, 1],
            [0, 0, ANGULAR_STIFFNESS, 0],
        ]
    )
    POSITIONS = np.eye(4)[[0, 2]]

    def __init__(self, sigma: float) -> None:
        self._noise_covariance = sigma**2 * np.eye(2)

    def _start(self, observation: np.ndarray) -> None:
        self._state = CartPoleState(0.0, 0.0, 0.0, 0.0)
        self._covariance = START_RANGE**2 / 3 * np.eye(4)
        self._correct(observation)

    def _update(self, observation: np.ndarray, action: int) -> None:
        self._state = predict(self._state, action)
        self._covariance = self.TRANSITION @ self._covariance @ self.TRANSITION.T
        self._correct(observation)

    def _correct(self, observation: np.ndarray) -> None:
        cross = self._covariance @ self.POSITIONS.T
        gain = cross @ np.linalg.inv(self.POSITIONS @ cross + self._noise_covariance)
        self._covariance = self._covariance - gain @ cross.T
        surprise = gain @ (observation - self.POSITIONS @ self._state)
        self._state = CartPoleState(*(np.array(self._state) + surprise).tolist())

"""How to swing a pendulum up and hold it there: a torque for every state, found by policy iteration on a grid."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np

TIME_STEP = 0.05
GRAVITY = 15.0  # 3 g / 2 l, in 1/s^2
LEVER = 3.0  # 3 / m l^2, in 1/(kg m^2)
MAX_SPEED = 8.0
MAX_TORQUE = 2.0

N_ANGLES = 121
N_SPEEDS = 81
TORQUES = np.linspace(-MAX_TORQUE, MAX_TORQUE, 11)
DISCOUNT = 0.995
N_IMPROVEMENTS = 25
N_SWEEPS = 25

Real = TypeVar("Real", float, np.ndarray)


def wrap(angle: Real) -> Real:
    """Return the angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def predict(theta: Real, omega: Real, torque: Real) -> tuple[Real, Real]:
    """
    Make one step of Gymnasium's Pendulum.

    :param theta: angle (rad), 0 is upright
    :param omega: angular velocity (rad/s)
    :param torque: within +-2 (N m)
    :return: angle and angular velocity after 0.05 s
    """
    omega = np.clip(omega + TIME_STEP * (GRAVITY * np.sin(theta) + LEVER * torque), -MAX_SPEED, MAX_SPEED)
    return wrap(theta + TIME_STEP * omega), omega


def corners(theta: np.ndarray, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Find the place of states on the grid.

    :param theta: angles in [-pi, pi] (rad)
    :param omega: angular velocities within +-8 (rad/s), of the same shape
    :return: flat indices of the four grid points around it, and their weights in bilinear interpolation; the four are the
        first axis of both
    """
    row = (theta + np.pi) / (2 * np.pi) * (N_ANGLES - 1)
    column = (omega + MAX_SPEED) / (2 * MAX_SPEED) * (N_SPEEDS - 1)
    i = np.clip(row.astype(int), 0, N_ANGLES - 2)
    j = np.clip(column.astype(int), 0, N_SPEEDS - 2)
    down, right = row - i, column - j
    first = i * N_SPEEDS + j
    return (
        np.stack([first, first + 1, first + N_SPEEDS, first + N_SPEEDS + 1]),
        np.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]),
    )


@lru_cache(maxsize=1)
def solve() -> np.ndarray:
    """
    Minimise the task's discounted cost by modified policy iteration (Puterman and Shin 1978), in about half a second.

    Nearly everywhere the best torque is one of the extremes; a price on torque smooths it, but costs return under noise.

    :return: torque (N m) at every grid point, flat
    """
    theta, omega, torque = np.meshgrid(
        np.linspace(-np.pi, np.pi, N_ANGLES), np.linspace(-MAX_SPEED, MAX_SPEED, N_SPEEDS), TORQUES, indexing="ij"
    )
    cost = (theta**2 + 0.1 * omega**2 + 0.001 * torque**2).reshape(-1, len(TORQUES))
    places, weights = (part.reshape(4, *cost.shape) for part in corners(*predict(theta, omega, torque)))
    value = np.zeros(len(cost))
    everywhere = np.arange(len(cost))
    for _ in range(N_IMPROVEMENTS):
        best = (cost + DISCOUNT * (weights * value[places]).sum(0)).argmin(1)
        best_places, best_weights = places[:, everywhere, best], weights[:, everywhere, best]
        for _ in range(N_SWEEPS):
            value = cost[everywhere, best] + DISCOUNT * (best_weights * value[best_places]).sum(0)
    return TORQUES[best]


def swing_up(theta: float, omega: float) -> float:
    """
    Return the torque (N m) for a state.

    :param theta: angle in [-pi, pi) (rad), 0 is upright
    :param omega: angular velocity within +-8 (rad/s)
    """
    places, weights = corners(np.asarray(theta), np.asarray(omega))
    return float(weights @ solve()[places])

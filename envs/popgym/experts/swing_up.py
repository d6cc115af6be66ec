"""How to swing a pendulum up and hold it there, by one smooth formula."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

TIME_STEP = 0.05
GRAVITY = 15.0  # 3 g / 2 l, in 1/s^2
LEVER = 3.0  # 3 / m l^2, in 1/(kg m^2)
MAX_SPEED = 8.0
MAX_TORQUE = 2.0

BALANCE = 4.0  # N m s, gain on the deviation when upright
NEAR_TOP = 3  # the power of the cosine by which that gain falls with the angle
PUMP = 0.08  # N m s^3, gain with which energy is pumped in or taken out

Real = TypeVar("Real", float, np.ndarray)


def wrap(angle: Real) -> Real:
    """
    Reduce an angle.

    :param angle: Any (rad).
    :return: The same angle in [-pi, pi).
    """
    return (angle + np.pi) % (2 * np.pi) - np.pi


def predict(theta: Real, omega: Real, torque: Real) -> tuple[Real, Real]:
    """
    Make one step of Gymnasium's Pendulum.

    :param theta: Angle (rad), 0 is upright.
    :param omega: Angular velocity (rad/s).
    :param torque: Within +-2 (N m).
    :return: Angle and angular velocity after 0.05 s.
    """
    omega = np.clip(omega + TIME_STEP * (GRAVITY * np.sin(theta) + LEVER * torque), -MAX_SPEED, MAX_SPEED)
    return wrap(theta + TIME_STEP * omega), omega


def swing_up(theta: Real, omega: Real) -> Real:
    """
    Choose the torque for a state.

    Without torque, a pendulum at ``theta`` comes to rest upright if its velocity is -``rise``. Torque works against the
    deviation from that, with a constant gain near the top. Elsewhere its gain is proportional to ``omega * (omega - rise)``,
    so that torque is proportional to velocity times missing energy, as in Astrom and Furuta (2000), and continuous at the
    bottom, where ``rise`` changes its sign.

    :param theta: Angle in [-pi, pi) (rad), 0 is upright.
    :param omega: Angular velocity (rad/s).
    :return: Torque (N m).
    """
    rise = 2 * np.sqrt(GRAVITY) * np.sin(theta / 2)
    balance = BALANCE * np.maximum(np.cos(theta), 0.0) ** NEAR_TOP
    pull = -(balance + PUMP * omega * (omega - rise)) * (omega + rise)
    return MAX_TORQUE * np.tanh(pull / MAX_TORQUE)

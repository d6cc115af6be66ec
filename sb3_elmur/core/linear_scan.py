"""The recurrence that memories share whose gates do not look at their state."""

import torch as th
from torch import Tensor


def linear_scan(decay: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
    """
    All states of a linear recurrence, ``h_t = a_t * h_{t-1} + b_t``.

    Only this product and sum are computed in order; the linear maps that make ``a`` and ``b`` cost far more. A scan by
    doubling has log T stages in place of T, of which each touches all numbers: on a CPU it takes six to ten times as long.

    :param decay: a, (B, T, ...).
    :param inputs: b, of the same shape.
    :param initial: h before the first step, (B, ...).
    :return: h after every step, (B, T, ...).
    """
    hidden, states = initial, []
    for factor, summand in zip(decay.unbind(1), inputs.unbind(1), strict=True):
        hidden = th.addcmul(summand, factor, hidden)
        states.append(hidden)
    return th.stack(states, dim=1)

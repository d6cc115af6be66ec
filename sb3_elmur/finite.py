"""Numbers that are not finite, refused where they come in and where they would be saved."""

import numpy as np
from torch import nn


def check_rewards(rewards: np.ndarray, n_steps: int) -> None:
    """
    Check that all rewards are finite.

    :param rewards: Of each environment, (B,).
    :param n_steps: Steps so far, for the message.
    :raises FloatingPointError: If one is not, with the environment's number.
    """
    finite = np.isfinite(rewards)
    if not finite.all():
        env = int(np.flatnonzero(~finite)[0])
        raise FloatingPointError(
            f"Rewards must be finite. Received {rewards[env]} from environment {env}, within {n_steps} steps."
        )


def check_weights(policy: nn.Module, when: str) -> None:
    """
    Check that all weights are finite.

    :param policy: The policy.
    :param when: When they are looked at, for the message.
    :raises FloatingPointError: If one is not, with its name.
    """
    if (name := unfinite(policy)) is not None:
        raise FloatingPointError(
            f"Weights must be finite. Those of `{name}` are not {when}. "
            "Lower `learning_rate`, or look for large rewards and observations."
        )


def unfinite(module: nn.Module) -> str | None:
    """The name of a parameter that is not finite, or ``None`` if all are."""
    return next((name for name, parameter in module.named_parameters() if not parameter.isfinite().all()), None)

"""What users hand to ``RecurrentPPO``, checked: each error names the argument, what was received and what is allowed."""

from typing import Any

import numpy as np

from sb3_elmur.core.arguments import check_count, check_flags, check_range, check_size
from sb3_elmur.policies import ElmurPolicy


def check_arguments(model: Any) -> None:
    """
    Check the arguments of a :class:`sb3_elmur.RecurrentPPO`, also those that came from a file.

    :param model: It has them as attributes.
    :raises ValueError: If one is out of range, or the policy has no memory core.
    """
    for name in ("bptt_segments", "n_steps", "n_epochs") + (("batch_size",) if model.batch_size is not None else ()):
        check_count(name, getattr(model, name), 1)
    check_count("stats_window_size", model._stats_window_size, 1)
    for name in ("gamma", "gae_lambda", "averaging"):
        check_range(name, getattr(model, name), 0.0, 1.0)
    for name in ("ent_coef", "vf_coef", "max_grad_norm"):
        check_range(name, getattr(model, name), 0.0, np.inf)
    if not callable(model.learning_rate):  # a schedule
        check_range("learning_rate", model.learning_rate, 0.0, np.inf)
    if model.seed is not None:
        check_count("seed", model.seed, 0)
    check_count("sde_sample_freq", model.sde_sample_freq, -1)
    if not callable(model.clip_range):
        check_size("clip_range", model.clip_range)
    optional = ("trust_region", "target_kl") + (("clip_range_vf",) if not callable(model.clip_range_vf) else ())
    for name in optional:
        if getattr(model, name) is not None:
            check_size(name, getattr(model, name))
    check_flags(scale_rewards=model.scale_rewards, normalize_advantage=model.normalize_advantage)
    if model.normalize_advantage and model.n_steps * model.n_envs == 1:
        raise ValueError("`n_steps` must be at least 2 with one environment, to normalise advantages. Received 1.")
    if not issubclass(model.policy_class, ElmurPolicy):
        raise ValueError(
            f"`policy` must have a memory core, such as ElmurPolicy. Received {model.policy_class.__name__}: "
            "use sb3_contrib.RecurrentPPO for it."
        )

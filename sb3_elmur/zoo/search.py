"""Hyper-parameter search of ``ppo_elmur`` in rl_zoo3: the search space, and settings from a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sb3_elmur.settings import SCHEDULE, schedule

if TYPE_CHECKING:
    import optuna

POLICY = ("d_model", "n_layers", "segment_length", "memory_size", "blend", "lru_blend", "norm_first")


def sample_ppo_elmur_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample settings of :class:`sb3_elmur.RecurrentPPO` and all arguments of its policy, which replace those of a YAML file.

    :param trial: Trial to suggest values to.
    :param n_actions: Not used, like the next two, which all samplers of the zoo take.
    :param n_envs: Number of environments.
    :param additional_args: Of replay buffers.
    :return: Arguments of the algorithm, with ``policy_kwargs``.
    """
    sampled = {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        "n_steps_pow": trial.suggest_int("n_steps_pow", 5, 8),
        "batch_size_pow": trial.suggest_int("batch_size_pow", 7, 11),
        "n_epochs": trial.suggest_int("n_epochs", 2, 10),
        "bptt_segments": trial.suggest_int("bptt_segments", 1, 8),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.0001, 0.1, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 0.001, 0.2, log=True),
        "ent_coef": trial.suggest_float("ent_coef", 1e-5, 0.1, log=True),
        "clip_range": trial.suggest_categorical("clip_range", [0.1, 0.2, 0.3]),
        "max_grad_norm": trial.suggest_float("max_grad_norm", 0.3, 2.0),
        "d_model_pow": trial.suggest_int("d_model_pow", 5, 7),
        "n_layers": trial.suggest_int("n_layers", 1, 3),
        "segment_length_pow": trial.suggest_int("segment_length_pow", 2, 5),
        "memory_size_pow": trial.suggest_int("memory_size_pow", 0, 5),
        "blend": trial.suggest_categorical("blend", ["fixed", "learned", "gated"]),
        "lru_blend": trial.suggest_float("lru_blend", 0.05, 1.0),
        "norm_first": trial.suggest_categorical("norm_first", [False, True]),
    }
    settings = convert_ppo_elmur_params(sampled)
    return settings | {"learning_rate": schedule(settings["learning_rate"])}


def convert_ppo_elmur_params(sampled: dict[str, Any]) -> dict[str, Any]:
    """
    Arguments of the algorithm, and of its policy, that a sample stands for.

    :param sampled: Values by the names under which a trial holds them: ``x_pow`` stands for the power of two x,
        ``one_minus_x`` for 1 - x, and ``learning_rate`` for what falls from it to 0, as by default.
    """
    settings: dict[str, Any] = {}
    for name, value in sampled.items():
        if name.endswith("_pow"):
            settings[name.removesuffix("_pow")] = 2**value
        elif name.startswith("one_minus_"):
            settings[name.removeprefix("one_minus_")] = 1 - value
        else:
            settings[name] = value
    settings["learning_rate"] = f"{SCHEDULE}{settings['learning_rate']}"
    return settings | {"policy_kwargs": {name: settings.pop(name) for name in POLICY}}

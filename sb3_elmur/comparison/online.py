"""Training from reward, by the PPO of three packages, with the hyper-parameters of rl_zoo3's YAML files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_elmur.comparison.algorithm import Job, Outcomes, Trained
from sb3_elmur.comparison.evaluation import evaluate_episodes, make_monitored
from sb3_elmur.comparison.policies import find_policy, policy_defaults, policy_hints, without
from sb3_elmur.comparison.wrappers import Wrappers
from sb3_elmur.core.arguments import check_count
from sb3_elmur.settings import argument_defaults, check_normalization, schedule
from sb3_elmur.zoo.checks import SCHEDULES, check_policy_ranges, check_ranges, checked_classes, made_callbacks

RUN_HINTS: dict[str, Any] = {
    "env_kwargs": dict[str, Any],
    "n_envs": int,
    "n_timesteps": int,
    "normalize": bool | dict[str, Any],
    "frame_stack": int,
    "callback": str | list | dict | None,
}
GIVEN_BY_RUNNER = (
    "env", "seed", "device", "verbose", "tensorboard_log", "rollout_buffer_class", "rollout_buffer_kwargs",
    "_init_setup_model", "return",
)  # fmt: skip
N_POINTS = 100


class Curve(BaseCallback):
    """Notes the mean return, and success where it is known, of the latest 100 training episodes after every rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes, successes = self.model.ep_info_buffer, self.model.ep_success_buffer
        if episodes:
            point = {"steps": self.num_timesteps, "return": float(np.mean([episode["r"] for episode in episodes]))}
            self.points.append(point | ({"success": float(np.mean(successes))} if successes else {}))

    def thinned(self) -> list[dict[str, float]]:
        """At most :data:`N_POINTS` of the points, the last one among them."""
        keep = np.unique(np.linspace(0, len(self.points) - 1, min(N_POINTS, len(self.points))).round().astype(int))
        return [self.points[i] for i in keep]


@dataclass(frozen=True)
class Online:
    """
    A PPO with the interface of Stable-Baselines3.

    :param model_class: Its class.
    :param settings_file: In ``zoo_configs``; keys that the class does not take are those of other algorithms.
    :param defaults: In place of the file's.
    :param recipe: What the file leaves to the class for which it was written.
    """

    model_class: type[OnPolicyAlgorithm]
    settings_file: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def hints(self) -> Mapping[str, Any]:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        hints = get_type_hints(self.model_class.__init__, localns={"VecEnv": VecEnv})  # which SB3 names without importing it
        return RUN_HINTS | {name: hint for name, hint in hints.items() if name not in GIVEN_BY_RUNNER}

    def policy_hints(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        return policy_hints(find_policy(settings["policy"], self.model_class))

    def check(self, settings: Mapping[str, Any]) -> None:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        for name in ("n_envs", "n_timesteps"):
            check_count(name, settings.get(name), 1)
        check_ranges(settings)
        _callbacks(settings)
        check_normalization(Wrappers.of(settings).normalize or {})
        check_policy_ranges(find_policy(settings["policy"], self.model_class), settings.get("policy_kwargs", {}))

    def left_out(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        hints = self.hints()
        own = {name: value for name, value in argument_defaults(self.model_class).items() if name in hints}
        of_policy = policy_defaults(find_policy(settings["policy"], self.model_class), self.model_class)
        return without(own, settings) | without(of_policy, settings["policy_kwargs"])

    def train(self, job: Job) -> Trained:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        settings = dict(job.settings)
        wrap = Wrappers.of(settings)
        callbacks = _callbacks(settings)
        for name in ("normalize", "frame_stack", "callback"):
            settings.pop(name, None)
        env = wrap(make_monitored(job.env_id, settings.pop("n_envs"), settings.pop("env_kwargs", None)))
        n_timesteps = settings.pop("n_timesteps")
        settings["policy"] = find_policy(settings["policy"], self.model_class)
        settings |= {name: schedule(settings[name]) for name in SCHEDULES if name in settings}
        model = self.model_class(env=env, seed=job.seed, device=job.device, **settings)
        curve = Curve()
        model.learn(n_timesteps, [curve, *callbacks])
        env.close()

        def evaluate(env_id: str, n_episodes: int, seed: int, deterministic: bool) -> Outcomes:
            return evaluate_episodes(model, wrap.for_evaluation(make_monitored(env_id, n_episodes), env), seed, deterministic)

        n_parameters = sum(parameter.numel() for parameter in model.policy.parameters())
        return Trained(evaluate, n_parameters, curve.thinned(), {"steps": model.num_timesteps})


def _callbacks(settings: Mapping[str, Any]) -> list[BaseCallback]:
    return made_callbacks(checked_classes("callback", settings.get("callback") or [], BaseCallback))

"""Behaviour cloning under a budget that is the same for all agents."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.features import fit_extractors
from sb3_elmur.bc.trainer import BC
from sb3_elmur.comparison.algorithm import Job, Outcomes, Trained
from sb3_elmur.comparison.evaluation import evaluate_episodes, make_monitored
from sb3_elmur.comparison.matrix import Budget
from sb3_elmur.comparison.policies import find_policy, policy_defaults, policy_hints, without
from sb3_elmur.comparison.wrappers import Wrappers
from sb3_elmur.datasets.episodes import Episodes, NpzEpisodes
from sb3_elmur.datasets.normalizing import NormalizedEpisodes, fit_normalization
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.ppo import RecurrentPPO
from sb3_elmur.settings import check_normalization
from sb3_elmur.zoo.checks import check_policy_ranges

MODEL_HINTS: dict[str, Any] = {
    "policy": str,
    "policy_kwargs": dict[str, Any],
    "n_eval_envs": int,
    "normalize": bool | dict[str, Any],
    "normalize_kwargs": dict[str, Any],
}
WITHOUT_EFFECT = ("eval_freq", "n_eval_episodes", "save_freq")  # where nothing is evaluated or saved while it trains
TRIAL = 0.05  # share of a budget of CPU seconds that predicts the rest


@dataclass(frozen=True)
class Cloning:
    """:class:`sb3_elmur.bc.trainer.BC`; evaluation is the runner's."""

    settings_file: str = "bc_elmur.yml"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def hints(self) -> Mapping[str, Any]:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        return MODEL_HINTS | get_type_hints(BCConfig)

    def policy_hints(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        return policy_hints(find_policy(settings["policy"], RecurrentPPO))

    def check(self, settings: Mapping[str, Any]) -> None:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        make_config(settings)
        check_normalization(Wrappers.of(settings).normalize or {})
        check_policy_ranges(find_policy(settings["policy"], RecurrentPPO), settings.get("policy_kwargs", {}))

    def left_out(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        own = {each.name: each.default for each in fields(BCConfig)}
        of_policy = policy_defaults(find_policy(settings["policy"], RecurrentPPO), RecurrentPPO)
        return without(own, {*settings, *WITHOUT_EFFECT}) | without(of_policy, settings["policy_kwargs"])

    def train(self, job: Job) -> Trained:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        assert job.demonstrations is not None
        env = make_batch(job.env_id, 1)
        episodes: Episodes = NpzEpisodes(job.demonstrations, env.observation_space, env.action_space)
        wrap = Wrappers.of(job.settings)
        if wrap.normalize is not None:
            env = fit_normalization(env, episodes, **wrap.normalize)
            episodes = NormalizedEpisodes(episodes, env)

        def make_trainer(n_epochs: int) -> BC:
            policy: Any = find_policy(job.settings["policy"], RecurrentPPO)
            policy_kwargs = job.settings.get("policy_kwargs")
            model = RecurrentPPO(policy, env, policy_kwargs=policy_kwargs, seed=job.seed, device=job.device)
            fit_extractors(model.policy, episodes)
            return BC(model, episodes, make_config(job.settings | {"n_epochs": n_epochs}))

        trainer = make_trainer(make_config(job.settings).n_epochs)
        if job.budget is not None:
            trainer = make_trainer(epochs_within(job.budget, make_trainer))
        start = time.process_time()
        trainer.train()
        seconds = round(time.process_time() - start, 1)
        trainer.policy.cpu()  # single steps are too little work for a GPU
        env.close()

        def evaluate(env_id: str, n_episodes: int, seed: int, deterministic: bool) -> Outcomes:
            return evaluate_episodes(
                trainer.model, wrap.for_evaluation(make_monitored(env_id, n_episodes), env), seed, deterministic
            )

        n_parameters = sum(parameter.numel() for parameter in trainer.policy.parameters())
        effort = {"epochs": trainer.config.n_epochs, "updates": trainer.updates, "steps": trainer.steps}
        return Trained(evaluate, n_parameters, effort=effort | {"CPU seconds": seconds})


def make_config(settings: Mapping[str, Any]) -> BCConfig:
    """
    Take the hyper-parameters of the training from those of an agent.

    :param settings: Hyper-parameters, those of the model among them.
    :raises ValueError: If one is outside its range.
    """
    names = {field.name for field in fields(BCConfig)}
    return BCConfig(**{name: value for name, value in settings.items() if name in names})


def epochs_within(budget: Budget, make_trainer: Callable[[int], BC]) -> int:
    """
    Number of epochs, at least one, that fits best into a budget.

    :param budget: In steps, or in CPU seconds; for these, another trainer trains for a while.
    :param make_trainer: From a number of epochs to a new trainer.
    """
    trainer = make_trainer(1)
    steps_per_epoch = trainer.episodes.lengths[trainer.trained].sum()
    if budget.steps is not None:
        return max(1, round(budget.steps / steps_per_epoch))
    for i in trainer.trained:  # so that the trial does not pay for reading them
        _ = trainer.inputs[int(i)]
    assert budget.cpu_seconds is not None
    trainer.train_batch()  # slower than those that follow
    start, begin = time.process_time(), trainer.steps
    while trainer.batches_done < trainer.total_batches and time.process_time() - start < TRIAL * budget.cpu_seconds:
        trainer.train_batch()
    if trainer.steps == begin:  # one batch holds all episodes
        trainer.batches_done = 0
        trainer.train_batch()
    seconds_per_step = (time.process_time() - start) / (trainer.steps - begin)
    return max(1, round(budget.cpu_seconds / (seconds_per_step * steps_per_epoch)))

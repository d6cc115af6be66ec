"""rl_zoo3's experiment manager, more careful: what is wrong with settings or a policy is said, and said early."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import optuna
import yaml
from rl_zoo3 import ALGOS
from rl_zoo3.exp_manager import ExperimentManager
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from sb3_elmur.command_line import SettingsError
from sb3_elmur.envs.batch import native_batch
from sb3_elmur.settings import check_type, with_classes
from sb3_elmur.zoo.checks import check_env_arguments, check_policy_arguments, check_settings, refuses

CHECKING = ("sb3_elmur", "rl_zoo3", "sb3_contrib", "stable_baselines3")  # packages that say what is wrong with settings


class CheckedExperimentManager(ExperimentManager):
    """
    Experiment manager that checks the settings of recurrent PPO before it builds anything. What is refused before training is
    a :class:`sb3_elmur.command_line.SettingsError`.

    Environments that have a native batch are one, unless a wrapper or processes (``--vec-env subproc``) are asked for.

    In a search it prunes trials whose weights diverge, as the zoo does, but not those that fail for another reason.
    ``--trial-id 0`` is a trial like any other. Neither a search nor an environment that cannot be made leaves an empty run
    folder, which ``enjoy`` would take for the latest run.
    """

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        try:
            return super().setup_experiment()
        except Exception as error:
            for folder in (self.params_path, self.save_path):
                with suppress(OSError):  # something is in it
                    Path(folder).rmdir()
            if isinstance(error, ValueError | AssertionError) and refuses(error, CHECKING):
                raise SettingsError(str(error)) from error
            raise

    def create_log_folder(self) -> None:
        if not self.optimize_hyperparameters:
            super().create_log_folder()

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        no_log = no_log or self.optimize_hyperparameters
        native = native_batch(self.env_name.gym_id, self.eval_env_kwargs if eval_env else self.env_kwargs)
        if native is None or self.env_wrapper is not None or self.vec_env_class is not DummyVecEnv:
            return super().create_envs(n_envs, eval_env, no_log)
        log = None if eval_env or no_log else str(Path(self.save_path) / "0")

        def make(functions: list[Callable[[], gymnasium.Env]]) -> VecEnv:
            return VecMonitor(native(len(functions)), log, self.monitor_kwargs.get("info_keywords", ()))

        self.vec_env_class = make  # type: ignore[assignment]  # all that the zoo does with it is to call it
        try:
            return super().create_envs(n_envs, eval_env, no_log)
        finally:
            self.vec_env_class = DummyVecEnv

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.storage and self.study_name and self.trial_id == 0:  # which the zoo takes for no trial
            self.custom_hyperparams = self.load_trial(self.storage, self.study_name, 0) | (self.custom_hyperparams or {})
        try:
            self._check_file()
            hyperparams, saved = super().read_hyperparameters()
        except (OSError, yaml.YAMLError) as error:
            raise SettingsError(f"{self.config} cannot be read: {' '.join(str(error).split())}") from error
        algorithm = ALGOS[self.algo]
        if issubclass(algorithm, RecurrentPPO):
            check_settings(algorithm, hyperparams)
        return hyperparams, saved

    def _check_file(self) -> None:
        """Check that a YAML file maps ids to settings."""
        if self.config.endswith((".yml", ".yaml")):
            by_environment = yaml.safe_load(Path(self.config).read_text(encoding="utf-8"))
            check_type(self.config, by_environment, dict[str, Any])
            for env_id in by_environment.keys() & {self.env_name.gym_id, "default"}:
                check_type(f"`{env_id}` of {self.config}", by_environment[env_id], dict[str, Any])

    def load_trial(self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True) -> dict[str, Any]:
        try:
            return super().load_trial(storage, study_name, trial_id, convert)
        except (KeyError, IndexError) as error:  # no such study, trial or value of it
            raise SettingsError(f"Study {study_name!r} of {storage} has no complete trial {trial_id}.") from error

    def _preprocess_hyperparams(
        self, hyperparams: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable | None, list[BaseCallback], Callable | None]:
        processed = super()._preprocess_hyperparams(hyperparams)
        algorithm = ALGOS[self.algo]
        if issubclass(algorithm, RecurrentPPO):
            policy_kwargs = with_classes(processed[0].get("policy_kwargs") or {})
            check_policy_arguments(algorithm, processed[0]["policy"], policy_kwargs)
            processed[0]["policy_kwargs"] = policy_kwargs
        for arguments in (self.env_kwargs, self.eval_env_kwargs):
            check_env_arguments(self.env_name.gym_id, arguments)
        return processed

    def objective(self, trial: optuna.Trial) -> float:
        try:
            return super().objective(trial)
        except optuna.TrialPruned as pruned:
            if pruned.__cause__ is None or _diverged(pruned.__cause__):
                raise
            raise pruned.__cause__ from None
        except RuntimeError as error:  # of a sampler, where distributions do not validate, as after `torch.compile`
            if not _diverged(error):
                raise
            raise optuna.TrialPruned() from error


def _diverged(error: BaseException) -> bool:
    """Whether a distribution refused its parameters, which are not finite once the weights are not."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].startswith("torch.distributions")

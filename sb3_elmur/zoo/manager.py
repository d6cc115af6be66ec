"""rl_zoo3's experiment manager, which checks settings first, claims run folders, and saves models with their statistics."""

import shlex
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import optuna
import torch as th
from rl_zoo3 import ALGOS
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from rl_zoo3.utils import get_latest_run_id
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from sb3_elmur.command_line import SettingsError
from sb3_elmur.distributed import current_group
from sb3_elmur.envs.batch import native_batch
from sb3_elmur.finite import unfinite
from sb3_elmur.saved_statistics import check_statistics, find_statistics
from sb3_elmur.settings import as_literal, check_known, read_settings
from sb3_elmur.zoo.checks import check_env_arguments, checked_policy_arguments, checked_settings
from sb3_elmur.zoo.joint import told_how_to_go_on
from sb3_elmur.zoo.saving import SaveCheckpoints, SaveModel, save
from sb3_elmur.zoo.search import sample_ppo_elmur_params
from sb3_elmur.zoo.states import SaveState, finish

REFUSALS = (ValueError, AssertionError, OverflowError, MemoryError, th.OutOfMemoryError, gymnasium.error.Error)
MAKING_REFUSALS = (*REFUSALS, TypeError)  # an environment is told what to be by its arguments
BEST_MODEL = "best_model.zip"  # in the run folder
_search = threading.local()  # the model of the trial that this thread runs
OF_OBSERVATIONS = ("norm_obs", "norm_obs_keys", "training")  # arguments of a VecNormalize that belong to its statistics
_making = threading.Lock()  # trials of a search share the manager


@contextmanager
def told(*errors: type[Exception]) -> Iterator[None]:
    """
    What is raised within is a user's mistake, of which no traceback would tell more.

    :param errors: Such errors; others stay what they are.
    :raises SettingsError: In their place.
    """
    try:
        yield
    except (SettingsError, gymnasium.error.DependencyNotInstalled):
        raise
    except errors as error:
        raise SettingsError(str(error)) from error


class Watch(BaseCallback):
    """Tells the thread that runs a trial which model it trains."""

    def _on_training_start(self) -> None:
        _search.model = self.model

    def _on_step(self) -> bool:
        return True


def _finite(model: BaseAlgorithm | None) -> bool:
    """Whether all weights of a model are finite; where there is none yet, nothing has diverged."""
    return model is None or unfinite(model.policy) is None


class CheckedExperimentManager(ExperimentManager):
    """
    Experiment manager that checks the settings of recurrent PPO before it builds anything.

    What is refused before training is a :class:`sb3_elmur.command_line.SettingsError`.

    Environments that have a native batch are one, unless a wrapper or processes (``--vec-env subproc``) are asked for.

    Processes that train one agent together have one run folder, and its environments between them.

    Several runs of one environment that start at the same instant have folders of their own. Every saved model has the
    statistics of its ``VecNormalize`` with it.

    In a search, sampled ``policy_kwargs`` replace those of the same name alone. It prunes trials whose weights diverge, as the
    zoo does, but not those that fail for another reason. ``--trial-id 0`` is a trial like any other. Neither a search nor an
    environment that cannot be made leaves an empty run folder, which ``enjoy`` would take for the latest run.

    Of rl_zoo3 it overrides, beside public methods, ``_preprocess_hyperparams``, ``_maybe_normalize`` and ``_save_config``.
    """

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """Build model and environments; an experiment that cannot be built leaves no run folder."""
        self._claimed = False
        try:
            with told(*REFUSALS):
                return super().setup_experiment()
        except BaseException as error:
            if self._claimed:
                shutil.rmtree(self.save_path, ignore_errors=True)
            if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):  # PyTorch has no class for it
                raise SettingsError(f"The settings need more memory than there is: {error}") from error
            raise

    def create_log_folder(self) -> None:
        """Make the folders that a run or a search writes to, before it begins; a run's own is new."""
        searching = self.optimize_hyperparameters
        with told(OSError):
            for path in filter(None, (self.tensorboard_log, self.optimization_log_path if searching else None, self.log_path)):
                Path(path).mkdir(parents=True, exist_ok=True)
            if searching:
                return
            self.save_path = current_group().from_first(self._claim_folder)
        self.params_path = f"{self.save_path}/{self.env_name}"

    def _claim_folder(self) -> str:
        unique = Path(self.save_path).name.removeprefix(f"{self.env_name}_").lstrip("0123456789")  # of `--uuid`
        while not self._claimed:
            number = get_latest_run_id(self.log_path, self.env_name) + 1
            folder = Path(self.log_path) / f"{self.env_name}_{number}{unique}"
            try:
                folder.mkdir()
                self._claimed = True
            except FileExistsError:  # of another process, since the folders were counted
                continue
        self.save_path = str(folder)
        (folder / str(self.env_name)).mkdir()
        return str(folder)

    def create_callbacks(self) -> None:
        """Make the zoo's callbacks, of which those that save models save their statistics, too; in the first process alone."""
        if current_group().rank:
            self.callbacks = []
            return
        n_own = len(self.callbacks)
        super().create_callbacks()
        for i, callback in enumerate(self.callbacks[n_own:], n_own):
            if isinstance(callback, CheckpointCallback):
                self.callbacks[i] = SaveCheckpoints(Path(self.save_path), callback.save_freq)
            elif isinstance(callback, EvalCallback):
                callback.best_model_save_path = None  # in whose place the next saves
                callback.callback_on_new_best = SaveModel(Path(self.save_path) / BEST_MODEL)
                callback.callback_on_new_best.parent = callback

        if issubclass(ALGOS[self.algo], RecurrentPPO) and not self.optimize_hyperparameters:
            # the zoo tells the first callback that training has ended even where it was interrupted
            self.callbacks += [CallbackList([]), SaveState(Path(self.save_path), self.n_timesteps)]

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        if current_group().rank == 0:
            super()._save_config(saved_hyperparams)

    def learn(self, model: BaseAlgorithm) -> None:
        """Train; what ends with other processes says how to go on."""
        with told_how_to_go_on(self.save_path):
            super().learn(model)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Save the model with its statistics, in the first process; at the end of training delete the states."""
        if current_group().rank:
            return
        print(f"Saving to {self.save_path}")
        save(model, Path(self.save_path) / f"{self.env_name}.zip")
        if any(isinstance(callback, SaveState) and not callback.ended for callback in self.callbacks):
            print(f"Interrupted. To go on: sb3-elmur train --continue {shlex.quote(self.save_path)}")
        else:
            finish(Path(self.save_path))

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Make environments, as a native batch where there is one; to train in, this process's share of them."""
        group = current_group()
        no_log = no_log or self.optimize_hyperparameters or group.rank > 0
        if not eval_env:
            n_envs, rest = divmod(n_envs, group.size)
            if rest:
                raise SettingsError(
                    f"`n_envs` must be a multiple of the number of processes, {group.size}. "
                    f"Received {n_envs * group.size + rest}."
                )
        with _making, told(*MAKING_REFUSALS):
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

    def _continue_normalization(self, env: VecNormalize) -> None:
        """Take all but observations from the settings; their statistics go on learning if those of rewards do."""
        for name, value in ({"norm_reward": True} | self.normalize_kwargs).items():
            if name not in OF_OBSERVATIONS:
                setattr(env, name, value)
        env.training = env.training or env.norm_reward

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        """The zoo's, but with the statistics that belong to the trained agent by name, or none."""
        statistics = find_statistics(Path(self.trained_agent)) if self.continue_training else None
        if statistics is not None:
            with told(ValueError):
                check_statistics(statistics)
            print(f"Loading saved VecNormalize stats of {statistics}")
            env = VecNormalize.load(str(statistics), env)
            if self.normalize:
                self._continue_normalization(env)
        elif self.normalize and self.continue_training and self.normalize_kwargs.get("norm_obs", True):
            raise SettingsError(
                f"There are no statistics of {self.trained_agent}, which `normalize` continues. Of rewards alone "
                "(`norm_obs: false`) it begins with new ones."
            )
        elif self.normalize:
            keys, known = self.normalize_kwargs.get("norm_obs_keys"), getattr(env.observation_space, "spaces", ())
            check_known("key of observations in `norm_obs_keys`", keys or (), known)
            env = VecNormalize(env, **self.normalize_kwargs)
        if eval_env and isinstance(env, VecNormalize):
            env.training = env.norm_reward = False
        return env

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the settings, in which a trial's values replace those of the same name."""
        trained = self.storage and self.study_name and self.trial_id is not None
        with told(OSError, ValueError):
            arguments = self._check_file()
            trial = self.load_trial(self.storage, self.study_name, self.trial_id) if trained else {}  # type: ignore[arg-type]
            if "policy_kwargs" in trial:
                trial["policy_kwargs"] = arguments | trial["policy_kwargs"]
            self.custom_hyperparams = trial | (self.custom_hyperparams or {})
            self.trial_id = None  # what the zoo would load in place of the settings
            return super().read_hyperparameters()

    def _check_file(self) -> dict[str, Any]:
        """Check that a YAML file maps ids to settings, and return the arguments of the policy of this environment."""
        if not self.config.endswith((".yml", ".yaml")):
            return {}  # a program, which is the user's own
        settings = read_settings(Path(self.config), self.env_name.gym_id, *["atari"] * self._is_atari)
        arguments = as_literal("policy_kwargs", settings.get("policy_kwargs"))
        return arguments if isinstance(arguments, dict) else {}

    def load_trial(self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True) -> dict[str, Any]:
        """Load the values of a finished trial."""
        try:
            return super().load_trial(storage, study_name, trial_id, convert)
        except (KeyError, IndexError) as error:  # no such study, trial or value of it
            raise SettingsError(f"Study {study_name!r} of {storage} has no complete trial {trial_id}.") from error

    def _preprocess_hyperparams(
        self, hyperparams: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable | None, list[BaseCallback], Callable | None]:
        algorithm = ALGOS[self.algo]
        if issubclass(algorithm, RecurrentPPO):
            hyperparams = checked_settings(algorithm, hyperparams)
        processed = super()._preprocess_hyperparams(hyperparams)
        settings = processed[0]
        if issubclass(algorithm, RecurrentPPO):
            arguments = checked_policy_arguments(algorithm, settings["policy"], settings.get("policy_kwargs"))
            settings["policy_kwargs"] = arguments
        if self.optimize_hyperparameters:
            self.specified_callbacks = [*(self.specified_callbacks or []), f"{__name__}.{Watch.__name__}"]
            if HYPERPARAMS_SAMPLER[self.algo] is sample_ppo_elmur_params:
                samplers: dict[str, Any] = HYPERPARAMS_SAMPLER
                samplers[self.algo] = self._sample
        for env_kwargs in (self.env_kwargs, self.eval_env_kwargs):
            check_env_arguments(self.env_name.gym_id, env_kwargs)
        return processed

    def _sample(self, *arguments: Any) -> dict[str, Any]:
        """A sample of our search space, with the other arguments of the policy as the settings have them."""
        sampled = sample_ppo_elmur_params(*arguments)
        sampled["policy_kwargs"] = self._hyperparams["policy_kwargs"] | sampled["policy_kwargs"]
        with told(ValueError):
            checked_policy_arguments(RecurrentPPO, self._hyperparams["policy"], sampled["policy_kwargs"])
        return sampled

    def objective(self, trial: optuna.Trial) -> float:
        """Train and judge a trial; only one whose weights diverge is pruned for an error."""
        _search.model = None
        try:
            return super().objective(trial)
        except optuna.TrialPruned as pruned:
            if pruned.__cause__ is None or not _finite(_search.model):
                raise
            raise pruned.__cause__ from None
        except (RuntimeError, ArithmeticError) as error:  # of a sampler, or of a check that losses are finite
            if _finite(_search.model):
                raise
            raise optuna.TrialPruned() from error

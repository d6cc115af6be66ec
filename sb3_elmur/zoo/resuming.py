"""``sb3-elmur train --continue RUN_FOLDER``: the rest of an interrupted run, into its own folder."""

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.utils import set_random_seed

from sb3_elmur.claims import claim
from sb3_elmur.command_line import SettingsError
from sb3_elmur.distributed import current_group
from sb3_elmur.ppo import RecurrentPPO
from sb3_elmur.training.averaging import Average
from sb3_elmur.zoo.joint import told_how_to_go_on
from sb3_elmur.zoo.manager import BEST_MODEL, CheckedExperimentManager
from sb3_elmur.zoo.runs import check_run, check_trained_agent
from sb3_elmur.zoo.states import FOLDER as STATES
from sb3_elmur.zoo.states import State, finish, latest_state, restore_generators, restore_logs

RENAMED = {  # arguments of the manager that have other names on the command line
    "n_eval_episodes": "eval_episodes",
    "hyperparams": "hyperparams",
    "vec_env_type": "vec_env",
    "show_progress": "progress",
}
SAME = (
    "algo", "log_folder", "tensorboard_log", "n_timesteps", "eval_freq", "save_freq", "env_kwargs", "eval_env_kwargs", "seed",
    "log_interval", "verbose", "n_eval_envs", "device", "trained_agent",
)  # fmt: skip


class ContinuedExperimentManager(CheckedExperimentManager):
    """
    Experiment manager of a run that was interrupted.

    Steps, updates, schedules, logs and the search for the best model go on; episodes begin anew.

    :param run: The run folder.
    :param options: Of its command line.
    :param settings: Of its training.
    :param state: Where it goes on; ``None`` begins anew.
    :raises SettingsError: If it would begin anew with a trained agent that is not there any more.
    """

    def __init__(self, run: Path, options: argparse.Namespace, settings: dict[str, Any], state: State | None) -> None:
        arguments = {name: getattr(options, name) for name in SAME}
        arguments |= {name: getattr(options, option) for name, option in RENAMED.items()}
        if state is None:
            check_trained_agent(options.trained_agent)
        else:  # processes after the first get what it has
            arguments["trained_agent"] = str(state.model) if current_group().rank == 0 else ""
        super().__init__(options, env_id=options.env, **arguments)
        self.settings, self.state = settings, state
        self.save_path, self.params_path = str(run), f"{run}/{self.env_name}"

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Take the settings that the run began with."""
        return dict(self.settings), dict(self.settings)

    def create_log_folder(self) -> None:
        """Cut the run's logs back to where it goes on."""
        if current_group().rank == 0:
            restore_logs(Path(self.save_path), self.state)

    def create_callbacks(self) -> None:
        """Make the callbacks, with the evaluations so far."""
        super().create_callbacks()
        for callback in self.callbacks:
            if isinstance(callback, EvalCallback) and self.state:
                _restore_evaluations(callback, Path(self.save_path) / BEST_MODEL, self.state.n_timesteps)

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        print(f"Log path: {self.save_path}")

    def learn(self, model: BaseAlgorithm) -> None:
        """Train for the steps that are left."""
        if self.state is None:
            return super().learn(model)
        env, group, n_timesteps = model.get_env(), current_group(), self.state.n_timesteps
        assert env is not None
        seed = self.seed + n_timesteps + group.rank * env.num_envs
        env.seed(seed % 2**32)
        for callback in self.callbacks:
            callback.n_calls = n_timesteps // (env.num_envs * group.size)
        if isinstance(model, RecurrentPPO) and model.averaging:
            model.average = Average(model.policy, self.state.n_averaged, self.state.weights)
        else:
            model.policy.load_state_dict(self.state.weights)
        if group.rank == 0:
            restore_generators(self.state.generators)
        else:
            set_random_seed(seed % 2**32)
        interval: dict[str, Any] = {"log_interval": self.log_interval} if self.log_interval > -1 else {}
        print(f"Going on after {n_timesteps} of {self.n_timesteps} steps; episodes begin anew.")
        try:
            with told_how_to_go_on(self.save_path):
                model.learn(self.n_timesteps - n_timesteps, self.callbacks, reset_num_timesteps=False, **interval)
        except KeyboardInterrupt:
            pass  # the model is saved, as the zoo does it
        finally:
            env.close()


def _restore_evaluations(callback: EvalCallback, best_model: Path, n_timesteps: int) -> None:
    """Those of the steps that were learned from, and that of the best model, which was noted before the model was saved."""
    try:
        with np.load(f"{callback.log_path}.npz") as saved:
            evaluations = dict(saved)
        of_best = evaluations["timesteps"] == _steps_of(best_model)
        callback.best_mean_reward = float(evaluations["results"][of_best].mean(axis=1).max(initial=-np.inf))
        known = evaluations["timesteps"] <= n_timesteps
        callback.evaluations_timesteps = evaluations["timesteps"][known].tolist()
        callback.evaluations_results = evaluations["results"][known].tolist()
        callback.evaluations_length = evaluations["ep_lengths"][known].tolist()
        callback.evaluations_successes = evaluations["successes"][known].tolist() if "successes" in evaluations else []
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:  # none yet, or half of it written
        print(f"Earlier evaluations are not known: {error}")


def _steps_of(model: Path) -> int:
    """Steps after which a model was saved; -1 if it is not there."""
    if not model.exists():
        return -1
    with zipfile.ZipFile(model) as archive:
        return json.loads(archive.read("data"))["num_timesteps"]


def find_run(run: Path) -> tuple[argparse.Namespace, dict[str, Any]]:
    """
    What a run folder says of its run.

    :param run: The run folder.
    :return: The options of its command line, and the settings of its training.
    :raises SettingsError: If it is no such folder, or the run is finished.
    """
    written = next(run.glob("*/args.yml"), None)
    if written is None or not (written.parent / "config.yml").exists():
        raise SettingsError(f"`--continue` must be the folder of a run that began to train. Received '{run}'.")
    settings, arguments = check_run(written.parent)
    options = argparse.Namespace(**arguments)
    missing = [name for name in ("env", *SAME, *RENAMED.values()) if not hasattr(options, name)]
    if missing:
        raise SettingsError(f"{written} lacks {', '.join(missing)}.")
    if not (run / STATES).exists():
        _check_unfinished(run)
    return options, settings


def _check_unfinished(run: Path) -> None:
    """Refuse a run that has a model and no states."""
    if any((run / f"{written.parent.name}.zip").exists() for written in run.glob("*/args.yml")):
        raise SettingsError(f"{run} is finished.")


def _claimed_state(run: Path) -> State | None:
    """The state of a run in which no other process trains from now on."""
    if claim(run, run / STATES):
        try:
            _check_unfinished(run)
        except SettingsError:  # by another process, meanwhile
            finish(run)
            raise
    state = latest_state(run)
    if state is None:
        print(f"{run} was interrupted before a state was saved: it begins anew.")
    return state


def continue_run(run: Path, options: argparse.Namespace, settings: dict[str, Any]) -> None:
    """
    Train the rest of an interrupted run.

    :param run: The run folder.
    :param options: Of :func:`find_run`.
    :param settings: Of :func:`find_run`.
    """
    set_random_seed(options.seed)
    if getattr(options, "num_threads", 0) > 0:
        th.set_num_threads(options.num_threads)
    state = current_group().from_first(lambda: _claimed_state(run))
    manager = ContinuedExperimentManager(run, options, settings, state)
    experiment = manager.setup_experiment()
    assert experiment is not None
    model, _ = experiment
    manager.learn(model)
    manager.save_trained_model(model)

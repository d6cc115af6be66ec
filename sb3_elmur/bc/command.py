"""The command of behaviour cloning: a run folder, training, and the saved model."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.bc.callback import CloningMemoryCallback
from sb3_elmur.bc.checkpoint import CHECKPOINT
from sb3_elmur.bc.features import fit_extractors
from sb3_elmur.bc.options import Command, Options, make_settings, parse
from sb3_elmur.bc.runs import (
    ARGUMENTS_FILE,
    PROGRAM,
    SETTINGS_FILE,
    as_written,
    new_run_folder,
    record_run,
    recorded_command,
    run_name,
)
from sb3_elmur.bc.shrinking import check_shrinkable, shrink_memory
from sb3_elmur.bc.trainer import BC
from sb3_elmur.claims import claim, release
from sb3_elmur.command_line import check_device, check_seed, import_packages, told_in_one_line
from sb3_elmur.datasets.episodes import open_episodes
from sb3_elmur.datasets.normalizing import NormalizedEpisodes, fit_normalization
from sb3_elmur.distributed import Group, joined_group
from sb3_elmur.monitoring.monitor import memory_of
from sb3_elmur.ppo import RecurrentPPO
from sb3_elmur.saved_statistics import STATISTICS_FILE
from sb3_elmur.settings import read_file, with_classes


@told_in_one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """
    Train a policy by behaviour cloning, and save it as a model of :class:`sb3_elmur.RecurrentPPO`.

    :param arguments: Command line; ``None`` means that of the process.
    """
    command = parse(sys.argv[1:] if arguments is None else arguments)
    import_packages(command.options.gym_packages)
    check_device(command.options.device)
    check_seed(command.options.seed)
    with joined_group(command.options.device) as (group, device):
        train(command, group, device)


def train(command: Command, group: Group, device: str) -> None:
    """
    Train as a command says.

    :param command: Of :func:`sb3_elmur.bc.options.parse`.
    :param group: Processes that train together.
    :param device: This process's.
    :raises ValueError: If an option, a file or the environment does not fit, or another process trains in the run folder.
    """
    options = command.options
    trainer, env = make_trainer(options, device, verbose=int(group.rank == 0))

    def claimed() -> Path:
        if options.run is not None and (options.run / CHECKPOINT).exists():
            check_settings(options.run, options)
        run = options.run or new_run_folder(options.log_folder, options.env)
        claim(run, run)
        return run

    folder: Path = group.from_first(claimed)
    try:
        _train_in(folder, command, trainer, env, first=group.rank == 0)
    finally:
        release(folder)


def _train_in(folder: Path, command: Command, trainer: BC, env: VecEnv, first: bool) -> None:
    """Train in a run folder, which the first process writes to."""
    options, name = command.options, run_name(command.options.env)
    if first:
        n_steps = int(trainer.episodes.lengths.sum())
        print(f"{len(trainer.episodes)} episodes, {n_steps} steps. Run folder: {folder}")
        if not (folder / CHECKPOINT).exists():
            record(folder / name, command)
            if isinstance(env, VecNormalize):
                with atomic_path(folder / name / STATISTICS_FILE) as temporary:
                    env.save(str(temporary))
    try:
        trainer.train(folder, progress_bar=not options.no_progress)
        if options.settings.shrink_memory:
            trainer, losses = shrink_memory(trainer, folder, progress_bar=not options.no_progress)
            if first:
                text = ", ".join(f"{slots}: {loss:.4g}" for slots, loss in losses.items())
                print(f"{trainer.policy.config.memory_size} slots. Loss on held-out episodes by number of slots: {text}.")
    except KeyboardInterrupt:
        sys.exit(f"Interrupted. To go on: {continuation(options, folder)}" if first else 1)
    if first:
        trainer.save(folder / f"{name}.zip")
        print(f"Saved {folder / name}.zip")


def make_trainer(options: Options, device: str, verbose: int) -> tuple[BC, VecEnv]:
    """
    Build what trains.

    :param options: What is trained, on what.
    :param device: Where to.
    :param verbose: Of the model.
    :return: The trainer, and the environments in which it evaluates.
    :raises ValueError: If an option, a file or the environment does not fit.
    """
    settings = options.settings
    env: VecEnv = make_vec_env(options.env, settings.n_eval_envs, seed=options.seed, env_kwargs=settings.env_kwargs)
    episodes = open_episodes(options.data, env.observation_space, env.action_space)
    if settings.normalize:
        env = fit_normalization(env, episodes, **settings.normalize_kwargs)
        episodes = NormalizedEpisodes(episodes, env)
    model = RecurrentPPO(
        settings.policy, env, policy_kwargs=with_classes(settings.policy_kwargs), seed=options.seed, device=device,
        tensorboard_log=options.tensorboard_log, verbose=verbose,
    )  # fmt: skip
    fit_extractors(model.policy, episodes)
    if options.monitor:
        memory_of(model.policy)  # raises if there is none, before anything is trained
    on_epoch = CloningMemoryCallback() if options.monitor else None
    trainer = BC(model, episodes, settings.training, env, on_epoch)
    if settings.shrink_memory:
        check_shrinkable(trainer)
    return trainer, env


def check_settings(run: Path, options: Options) -> None:
    """
    Refuse to go on with a run with other settings than those that it began with.

    :param run: Its folder.
    :param options: What it would go on with.
    :raises ValueError: If the environment, the seed or a hyper-parameter is another.
    """
    folder = recorded_command(run).parent
    arguments = read_file(folder / ARGUMENTS_FILE)
    settings = make_settings(read_file(folder / SETTINGS_FILE), str(folder / SETTINGS_FILE)).as_dict()
    began = settings | {name: arguments.get(name) for name in ("env", "seed")}
    goes_on = as_written(options.settings.as_dict() | {"env": options.env, "seed": options.seed})
    if different := [f"{name}={value!r}" for name, value in began.items() if value != goes_on[name]]:
        raise ValueError(f"{run} is a run with {', '.join(different)}. Continue with the same, or begin another run.")


def record(folder: Path, command: Command) -> None:
    """
    Record a run's hyper-parameters, options and command.

    :param folder: Where to.
    :param command: The command.
    """
    options = {field.name: getattr(command.options, field.name) for field in dataclasses.fields(Options)[:-1]}
    record_run(folder, command.options.settings.as_dict(), options, command.arguments)


def continuation(options: Options, folder: Path) -> str:
    """
    The command that goes on with a run.

    :param options: The run's.
    :param folder: The run's.
    """
    packages = ["--gym-packages", *options.gym_packages] if options.gym_packages else []
    return shlex.join([*PROGRAM.split(), "--continue", str(folder), *packages])

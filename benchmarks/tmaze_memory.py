"""
How far memory carries in the T-Maze: behaviour cloning and online PPO.

    python benchmarks/tmaze_memory.py                       # every experiment of RUNS with every seed, on two cores
    python benchmarks/tmaze_memory.py --only bc_gated online_gated --seeds 0 1 2 3 4 --workers 2
    python benchmarks/tmaze_memory.py --report              # table and figure of what is there

Every run is a process of its own on one core, and writes ``benchmarks/results/tmaze_memory/<experiment>_<seed>.json``. Runs
whose file is there are not repeated, so that the command continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch as th
from common import RESULTS, launch_all, markdown_table, mean_and_worst, model_arguments, provenance, write_file, write_json
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

from sb3_elmur import RecurrentPPO, resize_memory
from sb3_elmur.bc.trainer import BC
from sb3_elmur.comparison.cloning import make_config
from sb3_elmur.datasets.episodes import NpzEpisodes
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.evaluation import Corridors
from sb3_elmur.recording import record
from sb3_elmur.settings import read_settings

FOLDER = RESULTS / "tmaze_memory"
LENGTHS = (10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
ENV_ID = "TMazePassive30-v0"  # key of the settings
Prepare = Callable[[str, RecurrentPPO], None]
EPISODES = 100
N_RECORDED = 2000
EVALUATION_SEED = 10_000


PAPER = {  # the paper's network (FFN sizes as published), fixed blending, memory detached
    "d_model": 128, "n_layers": 2, "n_heads": 2, "segment_length": 10, "memory_size": 2, "blend": "fixed", "lru_blend": 0.79,
    "memory_init_std": 0.001, "ffn": "moe", "n_routed_experts": 2, "n_shared_experts": 2, "top_k": 3, "routed_d_ff": 32,
    "shared_d_ff": 512, "aux_loss_coef": 0.1, "dropout": 0.10, "attention_dropout": 0.17, "memory_dropout": 0.01,
}  # fmt: skip
PAPER_TRAINING = {
    "learning_rate": 2.1e-4, "beta1": 0.95, "label_smoothing": 0.16, "max_grad_norm": 5.0, "bptt_segments": 1,
    "batch_size": 128, "n_epochs": 60,
}  # fmt: skip
CELL = {"ortho_init": False}  # with SB3's small last layer, cells learn nothing in as many epochs as fill ELMUR's budget


@dataclass(frozen=True)
class Experiment:
    """
    One way to train.

    :param kind: "bc" or "online".
    :param policy_kwargs: In addition to those of the settings.
    :param settings: In addition to those of the file.
    :param longest: Where evaluation ends.
    :param resize: Numbers of slots with which the trained model is evaluated too.
    """

    kind: str
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    longest: int = 1_000_000
    resize: tuple[int, ...] = ()


EXPERIMENTS = {
    "bc_gated": Experiment("bc"),
    "bc_gated_slots": Experiment("bc", longest=1_000, resize=(1, 4, 8)),
    "bc_fixed": Experiment("bc", policy_kwargs={"blend": "fixed"}, longest=10_000, resize=(1, 4, 8)),
    "bc_fixed_detached": Experiment("bc", policy_kwargs={"blend": "fixed"}, settings={"bptt_segments": 1}, longest=10_000),
    "bc_paper": Experiment("bc", policy_kwargs=PAPER, settings=PAPER_TRAINING, longest=10_000),
    "bc_lstm": Experiment("bc", policy_kwargs=CELL | {"core": "lstm"}, settings={"n_epochs": 75}, longest=100_000),
    "bc_gru": Experiment("bc", policy_kwargs=CELL | {"core": "gru"}, settings={"n_epochs": 60}, longest=100_000),
    "bc_transformer": Experiment("bc", policy_kwargs={"memory_size": 0}, longest=10_000),
    "online_gated": Experiment("online"),
}


def load_settings(experiment: Experiment) -> dict[str, Any]:
    """The settings of the zoo's file, and what the experiment changes."""
    name = "bc_elmur.yml" if experiment.kind == "bc" else "ppo_elmur.yml"
    settings = read_settings(name, ENV_ID)
    settings |= experiment.settings
    settings["policy_kwargs"] = settings["policy_kwargs"] | experiment.policy_kwargs
    return settings


def record_data(folder: Path) -> None:
    """The paper's data set: 2,000 episodes of the oracle in corridors of 1 to 28 cells."""
    record("TMazePassive-v0", "oracle", folder, N_RECORDED, env_kwargs={"corridor_length": (1, 28)}, progress_bar=True)


def train_bc(settings: dict[str, Any], seed: int, data: Path, prepare: Callable[[RecurrentPPO], None]) -> RecurrentPPO:
    """Clone the recorded oracle, with a model that ``prepare`` may change first."""
    env = TMazeVecEnv(1)
    model = RecurrentPPO("ElmurPolicy", env, policy_kwargs=settings["policy_kwargs"], seed=seed, device="cpu")
    prepare(model)
    BC(model, NpzEpisodes(data, env.observation_space, env.action_space), make_config(settings)).train()
    return model


def train_online(settings: dict[str, Any], seed: int, callback: BaseCallback | None = None) -> RecurrentPPO:
    """Train by PPO, from reward alone."""
    env = VecMonitor(make_batch(ENV_ID, settings["n_envs"], settings["env_kwargs"]))
    model = RecurrentPPO("ElmurPolicy", env, seed=seed, device="cpu", **model_arguments(settings))
    return model.learn(settings["n_timesteps"], callback)


def evaluate_corridors(model: RecurrentPPO, longest: int) -> dict[str, Any]:
    """Success at every length, over 100 corridors."""
    lengths = [length for length in LENGTHS if length <= longest]
    corridors = Corridors(model.policy, lengths, EPISODES, EVALUATION_SEED)
    return {str(length): float(success.mean()) for length, success in corridors.finish().items()}


def run(name: str, experiment: Experiment, seed: int, data: Path, folder: Path, prepare: Prepare) -> None:
    """Train and evaluate once, in this process, and write the result."""
    th.set_num_threads(1)
    settings = load_settings(experiment)
    start = time.process_time()
    cloned = experiment.kind == "bc"
    model = train_bc(settings, seed, data, partial(prepare, name)) if cloned else train_online(settings, seed)
    trained = time.process_time()
    report = {
        "experiment": name,
        "settings": settings,
        "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
        "episodes": EPISODES,
        "success": evaluate_corridors(model, experiment.longest),
        "success with other numbers of slots": {
            n: evaluate_corridors(resize_memory(model, n), min(experiment.longest, 1_000)) for n in experiment.resize
        },
        "training CPU seconds": round(trained - start, 1),
        "evaluation CPU seconds": round(time.process_time() - trained, 1),
        **provenance(seed),
    }
    write_json(folder / f"{name}_{seed}.json", report)


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Success against length: the mean over seeds, and every seed as a thin line."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for i, (name, runs) in enumerate(results.items()):
        lengths = [int(length) for length in runs[0]["success"]]
        success = np.array([list(run["success"].values()) for run in runs])
        style = {"color": f"C{i}", "ls": "-" if EXPERIMENTS[name].kind == "bc" else "--"}
        axes.plot(lengths, success.T, lw=0.6, alpha=0.5, **style)
        axes.plot(lengths, success.mean(0), marker="o", ms=4, label=f"{name.replace('_', ' ')} ({len(runs)} seeds)", **style)
    axes.axvline(30, color="grey", lw=1, ls=":")
    axes.axhline(0.5, color="grey", lw=1, ls="--")
    axes.set(
        xscale="log", xlabel="length of the corridor (steps); trained on at most 30", ylabel=f"success ({EPISODES} corridors)"
    )
    axes.set(ylim=(-0.03, 1.03), title="T-Maze: success beyond the trained length")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2, loc="lower left")
    write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def report() -> None:
    """Print tables of all results, and draw the figure."""
    results: dict[str, list[dict[str, Any]]] = {}
    for name in EXPERIMENTS:
        paths = sorted(FOLDER.glob(f"{name}_[0-9]*.json"))
        if paths:
            results[name] = [json.loads(path.read_text()) for path in paths]
    columns = list(dict.fromkeys(length for runs in results.values() for length in runs[0]["success"]))
    rows = []
    for name, runs in results.items():
        means = []
        for column in columns:
            values = [run["success"][column] for run in runs if column in run["success"]]
            means.append(mean_and_worst(values))
        seconds = np.median([run["training CPU seconds"] for run in runs])
        rows.append([name, len(runs), runs[0]["parameters"], *means, round(float(seconds))])
    header = ["mean (worst seed)", "seeds", "parameters", *columns, "training, CPU s"]
    print(markdown_table(header, rows))
    draw(results, RESULTS.parents[1] / "docs" / "tmaze_memory.png")


def command_line(
    description: str | None,
    script: str,
    experiments: dict[str, Experiment],
    folder: Path,
    report: Callable[[], None],
    prepare: Prepare = lambda name, model: None,
) -> None:
    """
    Run experiments as the command line says.

    :param description: Its help.
    :param script: The script that was called.
    :param experiments: By name.
    :param folder: Where results go.
    :param report: Shows the results that are there.
    :param prepare: Changes the model of the named experiment before training.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=experiments, default=list(experiments), metavar="EXPERIMENT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "sb3-elmur-tmaze30", help="episodes")
    parser.add_argument("--run", nargs=2, metavar=("EXPERIMENT", "SEED"), help="one run, in this process")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options = parser.parse_args()
    if options.run:
        name, seed = options.run
        run(name, experiments[name], int(seed), options.data, folder, prepare)
        return
    if not options.report:
        record_data(options.data)
        commands = {
            folder / f"{name}_{seed}.json": [script, "--run", name, str(seed), "--data", str(options.data)]
            for seed, name in itertools.product(options.seeds, options.only)
        }
        launch_all(commands, options.workers)
    report()


if __name__ == "__main__":
    command_line(__doc__, __file__, EXPERIMENTS, FOLDER, report)

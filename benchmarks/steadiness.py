"""
Training that stays solved: what a policy that solves its task does while training goes on.

    python benchmarks/steadiness.py                                   # every task and recipe, seeds 10 to 14, two at a time
    python benchmarks/steadiness.py --tasks endless clone --recipes after --seeds 10 11 12 13 14
    python benchmarks/steadiness.py --report                          # table and figure of what is there

"After" are the package's defaults and ``zoo_configs/ppo_elmur.yml``, "before" what they were until version 0.1, but with the
present discount where ten T-Mazes stand in a row. Fixed episodes are evaluated at fixed intervals. Every run is a process of
its own on one core, and writes ``benchmarks/results/steadiness/<task>_<recipe>_<seed>.json``. Runs whose file is there are not
repeated. RememberColor3 is trained by ``mikasa_ppo.py``, which goes on where it was interrupted.
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

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from common import RESULTS, launch_all, markdown_table, model_arguments, provenance, write_file, write_json
from gymnasium import spaces
from rl_zoo3 import import_envs  # noqa: F401  # registers CartPoleNoVel-v1
from rl_zoo3.utils import get_callback_list
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from tmaze_memory import EXPERIMENTS, load_settings, record_data, train_bc

from sb3_elmur import ElmurPolicy, RecurrentPPO
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.trainer import BC
from sb3_elmur.datasets.episodes import NpzEpisodes
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.evaluation import run_episodes
from sb3_elmur.evaluation.corridors import Corridors
from sb3_elmur.settings import read_settings

FOLDER = RESULTS / "steadiness"
SEED = 20_000  # of the episodes that are evaluated
OLD: dict[str, Any] = {"trust_region": None, "scale_rewards": False, "averaging": 0.0, "ent_coef": 0.01, "bptt_segments": 3}
OLD_SMALL = {"d_model": 64, "blend": "gated", "gate_bias": -2.0}
OLD_FIXED = {"d_model": 64, "blend": "fixed"}
HOST = {"learning_rate": 3e-4, "n_epochs": 10, "batch_size": 128, "ent_coef": 0.0}  # the defaults of sb3-contrib
OLD_DEFAULTS = OLD | HOST | {"policy_kwargs": {"d_model": 128, "blend": "fixed"}}
DELAY = 16


class DelayedCopy(gym.Env):
    """Name at the seventeenth step which of four symbols the first one showed."""

    observation_space = spaces.Box(0, 1, (5,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Draw a symbol, and show it."""
        super().reset(seed=seed)
        self.time, self.symbol = 0, int(self.np_random.integers(4))
        return self._observe(), {}

    def step(self, action: np.integer) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Go on; the last action is rewarded if it names the symbol."""
        asked = self.time == DELAY
        right = asked and int(action) == self.symbol
        self.time += 1
        return self._observe(), float(right), asked, False, {"is_success": right} if asked else {}

    def _observe(self) -> np.ndarray:
        observation = np.zeros(5, np.float32)
        if self.time == 0:
            observation[self.symbol] = 1
        observation[4] = self.time == DELAY
        return observation


gym.register("DelayedCopy-v0", entry_point=lambda: DelayedCopy())


def clone_copier(seed: int) -> RecurrentPPO:
    """A policy that copies without mistakes, from 300 recorded episodes."""
    rng = np.random.default_rng(seed)
    policy_kwargs = {"d_model": 64, "segment_length": 5, "memory_size": 2, "blend": "fixed"}
    model = RecurrentPPO("ElmurPolicy", make_batch("DelayedCopy-v0", 1), policy_kwargs=policy_kwargs, seed=seed, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        for i, symbol in enumerate(rng.integers(4, size=300)):
            observation, action = np.zeros((DELAY + 1, 5), np.float32), np.zeros(DELAY + 1, np.int64)
            observation[0, symbol] = observation[DELAY, 4] = 1
            action[DELAY] = symbol
            np.savez(Path(folder) / f"{i}.npz", observation=observation, action=action)
        data = NpzEpisodes(Path(folder), DelayedCopy.observation_space, DelayedCopy.action_space)
        BC(model, data, BCConfig(n_epochs=100, batch_size=16)).train()
    return model


def clone_oracle(seed: int) -> RecurrentPPO:
    """A policy cloned from recorded corridors of the T-Maze, with the settings of ``bc_elmur.yml``."""
    with tempfile.TemporaryDirectory() as folder:
        record_data(Path(folder))
        return train_bc(load_settings(EXPERIMENTS["bc_gated"]), seed, Path(folder), lambda model: None)


def cross_long_corridors(policy: ElmurPolicy) -> dict[str, float]:
    """Success in corridors of up to a million steps."""
    corridors = Corridors(policy, (1_000, 100_000, 1_000_000), 100, SEED)
    return {f"success, {length:,} steps": float(success.mean()) for length, success in corridors.finish().items()}


def cross_ten_long_corridors(policy: ElmurPolicy) -> dict[str, float]:
    """Turns, and whole episodes, of ten corridors of 1,000 steps."""
    episodes = run_episodes(policy, make_batch("TMazeEndless10x30-v0", 64, {"length": 1_000}), SEED)
    keys = {"turns, 10 x 1,000": "turn_success", "episodes, 10 x 1,000": "is_success"}
    return {name: float(np.mean([episode[key] for episode in episodes])) for name, key in keys.items()}


@dataclass(frozen=True)
class Task:
    """
    What is learned, and how it is judged.

    :param env_id: The environment, and the key of its settings where ``settings`` are not given.
    :param steps: Of training.
    :param interval: Steps between evaluations, rounded up to whole rollouts.
    :param episodes: Of an evaluation.
    :param measure: Key of an episode whose mean is the score.
    :param solved: Score from which on the task is solved.
    :param before: What the settings were.
    :param settings: In place of those of ``ppo_elmur.yml``.
    :param evaluated: Arguments of the environments of an evaluation.
    :param proof: How the last policy is judged once more, in longer episodes.
    :param clone: Makes the policy from which training starts, with a seed; without it training starts from nothing.
    """

    env_id: str
    steps: int
    interval: int
    episodes: int
    measure: str
    solved: float
    before: dict[str, Any]
    settings: dict[str, Any] | None = None
    evaluated: dict[str, Any] = field(default_factory=dict)
    proof: Callable[[ElmurPolicy], dict[str, float]] | None = None
    clone: Callable[[int], RecurrentPPO] | None = None


EASED = {"corridor_length": (1, 28), "reward": "eased"}
TASKS = {
    "endless": Task(
        "TMazeEndless10x30-v0", 600_000, 24_576, 64, "turn_success", 0.99,
        evaluated={"length": 100}, proof=cross_ten_long_corridors,
        before=OLD | {
            "gae_lambda": 0.9, "normalize_advantage": False, "ent_coef": 0.003, "bptt_segments": 8,
            "policy_kwargs": {"gate_bias": 0.0},
        },
    ),
    "tmaze": Task(
        "TMazePassive30-v0", 1_000_000, 8_192, 100, "is_success", 0.99, proof=cross_long_corridors, before=OLD,
    ),
    "tmaze, defaults": Task(
        "TMazePassive30-v0", 200_000, 8_192, 100, "is_success", 0.99, before=OLD_DEFAULTS,
        settings={"n_envs": 16, "env_kwargs": EASED},
    ),
    "cartpole": Task(
        "CartPoleNoVel-v1", 300_000, 8_192, 20, "return", 475.0,
        before=OLD | {
            "normalize": True, "n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "clip_range": "lin_0.2",
            "gamma": 0.98, "gae_lambda": 0.8, "ent_coef": 0.0,
            "policy_kwargs": OLD_FIXED | {"segment_length": 8, "memory_size": 2},
        },
    ),
    "cartpole, defaults": Task(
        "CartPoleNoVel-v1", 150_000, 8_192, 20, "return", 475.0, before=OLD_DEFAULTS,
        settings={"n_envs": 16},
    ),
    "repeat previous": Task(
        "POPGymRepeatPreviousEasy-v0", 1_000_000, 32_768, 64, "return", 0.99, before=OLD,
        settings={
            "n_envs": 64, "policy_kwargs": {"segment_length": 52, "memory_size": 8}, "batch_size": 1024, "bptt_segments": 1,
            "gamma": 0.5,
        },
    ),
    "clone": Task(
        "DelayedCopy-v0", 50_000, 2_048, 100, "return", 0.95, before=OLD | HOST, settings={"n_envs": 16}, clone=clone_copier,
    ),
    "clone, tmaze": Task(
        "TMazePassive30-v0", 50_000, 2_048, 100, "is_success", 0.95, before=OLD | HOST,
        settings={"n_envs": 16, "env_kwargs": EASED}, clone=clone_oracle,
    ),
}  # fmt: skip
RECIPES = ("before", "after")


def settings_of(task: Task, recipe: str) -> dict[str, Any]:
    """The settings of a run, without what is the package's default."""
    settings = dict(task.settings) if task.settings is not None else read_settings("ppo_elmur.yml", task.env_id)
    if recipe == "after":
        return settings
    old = {"learning_rate": settings.get("learning_rate", "lin_1e-3")} | task.before
    return settings | old | {"policy_kwargs": OLD_SMALL | settings.get("policy_kwargs", {}) | old.get("policy_kwargs", {})}


class Curve(BaseCallback):
    """Evaluates the policy at fixed intervals, before a rollout, and keeps how far updates went."""

    def __init__(self, evaluate: Callable[[], float], interval: int) -> None:
        super().__init__()
        self.evaluate, self.interval = evaluate, interval
        self.points: list[tuple[int, float]] = []
        self.divergences: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        logged = self.logger.name_to_value
        if "train/rollout_kl" in logged:
            self.divergences.append(logged["train/rollout_kl"])
        if not self.points or self.num_timesteps >= self.points[-1][0] + self.interval:
            self.points.append((self.num_timesteps, self.evaluate()))
            print(self.points[-1], flush=True)


def run(name: str, recipe: str, seed: int, folder: Path) -> None:
    """Train once, in this process, evaluate on the way, and write the result."""
    th.set_num_threads(1)
    task = TASKS[name]
    settings = settings_of(task, recipe)
    start = time.process_time()
    arguments = model_arguments(settings)
    callbacks = get_callback_list(settings)
    normalize = settings.get("normalize")
    env = make_batch(task.env_id, settings["n_envs"], settings.get("env_kwargs", {}))
    judging = make_batch(task.env_id, task.episodes, task.evaluated)
    if normalize:
        env = VecNormalize(
            env, **({"gamma": arguments.get("gamma", 0.99)} | (normalize if isinstance(normalize, dict) else {}))
        )
        if env.norm_obs:
            judging = VecNormalize(judging, training=False, norm_reward=False)
            judging.obs_rms = env.obs_rms
    if task.clone is not None:
        with tempfile.TemporaryDirectory() as temporary:
            task.clone(seed).save(Path(temporary) / "clone")
            arguments.pop("policy_kwargs", None)
            model = RecurrentPPO.load(Path(temporary) / "clone", env, device="cpu", seed=seed, **arguments)
    else:
        model = RecurrentPPO("ElmurPolicy", env, seed=seed, device="cpu", **arguments)

    def evaluate() -> float:
        episodes = run_episodes(model.averaged_policy, judging, SEED)
        return float(np.mean([episode[task.measure] for episode in episodes]))

    curve = Curve(evaluate, task.interval)
    model.learn(task.steps, [curve, *callbacks])
    points = [*curve.points, (model.num_timesteps, evaluate())]
    report = {
        "task": name,
        "recipe": recipe,
        "settings": settings,
        "episodes": task.episodes,
        "solved from": task.solved,
        "summary": summary(points, task.solved),
        "curve": points,
        "last policy": task.proof(model.policy) if task.proof else {},
        "largest KL of an update, before what was taken back": max(curve.divergences, default=None),
        "CPU seconds": round(time.process_time() - start, 1),
        **provenance(seed),
    }
    write_json(folder / file_name(name, recipe, seed), report)


def summary(points: list[tuple[int, float]], solved: float) -> dict[str, Any]:
    """Steps to the first solved evaluation, the share of later ones that are solved, the worst of these, and the last one."""
    first = next((i for i, (_, score) in enumerate(points) if score >= solved), None)
    later = [] if first is None else [score for _, score in points[first + 1 :]]
    return {
        "first": None if first is None else points[first][0],
        "stays": float(np.mean([score >= solved for score in later])) if later else None,
        "worst": min(later, default=None),
        "last": points[-1][1],
    }


def file_name(name: str, recipe: str, seed: int) -> str:
    """Name of the file of one run's result."""
    return f"{name.replace(', ', '_').replace(' ', '_')}_{recipe}_{seed}.json"


def in_words(key: str, value: float | None) -> str:
    """A value of a summary; steps are whole numbers, the others are scores and shares."""
    if value is None:
        return "never" if key == "first" else ""
    return f"{value:,}" if key == "first" else f"{value:.3g}"


def report(folder: Path) -> None:
    """Print a table of all results, and draw the figure."""
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows = []
    for name, recipe in itertools.product(TASKS, RECIPES):
        runs = [report for report in reports if (report["task"], report["recipe"]) == (name, recipe)]
        if runs:
            keys = ("first", "stays", "worst", "last")
            cells = [", ".join(in_words(key, run["summary"][key]) for run in runs) for key in keys]
            rows.append([name, recipe, ", ".join(str(run["seed"]) for run in runs), *cells])
    header = ["task", "recipe", "seeds", "first solved (steps)", "share of later ones solved", "worst later", "last"]
    print(markdown_table(header, rows))
    draw(reports, RESULTS.parents[1] / "docs" / "steadiness.png")


def draw(reports: list[dict[str, Any]], path: Path) -> None:
    """The curve of every seed, a panel for each task."""
    names = [name for name in TASKS if any(report["task"] == name for report in reports)]
    recipes = [recipe for recipe in RECIPES if any(report["recipe"] == recipe for report in reports)]
    size = (5 * len(recipes), 2.1 * len(names))
    figure, axes = plt.subplots(len(names), len(recipes), figsize=size, layout="constrained", squeeze=False, sharey="row")
    for row, name in zip(axes, names, strict=True):
        for panel, recipe in zip(row, recipes, strict=True):
            for report in reports:
                if (report["task"], report["recipe"]) == (name, recipe):
                    panel.plot(*zip(*report["curve"], strict=True), lw=1, alpha=0.8, label=str(report["seed"]))
            if not panel.lines:
                panel.set_axis_off()
                continue
            panel.axhline(TASKS[name].solved, color="grey", lw=0.8, ls="--")
            panel.set_title(f"{name}: {recipe}", fontsize=9)
            panel.grid(alpha=0.3)
            panel.locator_params(axis="x", nbins=5)
            panel.tick_params(labelleft=True)
            panel.set_ylabel(TASKS[name].measure.replace("_", " "))
    for panel in axes[-1]:
        panel.set_xlabel("environment steps")
    write_file(path, partial(figure.savefig, format="png", dpi=120))


def main() -> None:
    """Run what the command line asks for, or show what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12, 13, 14])
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--run", nargs=3, metavar=("TASK", "RECIPE", "SEED"), help="one run, in this process")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options = parser.parse_args()
    if options.run:
        name, recipe, seed = options.run
        run(name, recipe, int(seed), options.output)
        return
    if not options.report:
        commands = {
            options.output / file_name(name, recipe, seed): [
                __file__, "--run", name, recipe, str(seed), "--output", str(options.output),
            ]
            for seed, name, recipe in itertools.product(options.seeds, options.tasks, options.recipes)
        }  # fmt: skip
        launch_all(commands, options.workers)
    report(options.output)


if __name__ == "__main__":
    main()

"""
Behaviour cloning of MIKASA-Robo's RememberColor tasks from scripted demonstrations, in the "state_cue" mode.

    python benchmarks/mikasa_bc.py                                        # every task, agent and seed, one after the other
    python benchmarks/mikasa_bc.py --tasks RememberColor3 --agents elmur lstm --seeds 0 1 2
    python benchmarks/mikasa_bc.py --report                               # a table of what is there

Demonstrations go to ``--data``, checkpoints and models to ``--runs``; recording and training go on where they were
interrupted. Every result is ``benchmarks/results/mikasa_bc/<task>_<agent>_<seed>.json``, and is not repeated once it is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import RESULTS, markdown_table, provenance, write_json
from mikasa_demonstrations import NOISE, label_answers
from stable_baselines3.common.vec_env import VecEnv

from sb3_elmur import RecurrentPPO
from sb3_elmur.bc.trainer import BC
from sb3_elmur.comparison.cloning import make_config
from sb3_elmur.datasets.episodes import Episode, Episodes, NpzEpisodes
from sb3_elmur.datasets.normalizing import NormalizedEpisodes, fit_normalization
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.evaluation import run_episodes, wilson_interval
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.recording import record
from sb3_elmur.saved_statistics import STATISTICS_FILE as NORMALIZATION
from sb3_elmur.settings import read_settings

FOLDER = RESULTS / "mikasa_bc"
MODEL = "model.zip"
DEMONSTRATIONS = {"RememberColor3": 400, "RememberColor5": 600, "RememberColor9": 1000}  # that are recorded
AGENTS: dict[str, dict[str, Any]] = {
    "elmur": {},
    "no memory": {"memory_size": 0},
    "gru": {"core": "gru", "d_model": 132},  # about as many parameters as ELMUR
    "lstm": {"core": "lstm", "d_model": 116},
}
BEGINNING = 20  # steps: the cue, and the first decisions
Phases = dict[str, tuple[int | None, dict[str, Any]]]  # steps of the episodes, if not all, and settings


def two_phases(n_beginnings: int, n_whole: int, batch_size: int = 96, learning_rate: float = 2e-3) -> Phases:
    """So many epochs of the beginnings, and of the whole episodes at half the rate."""
    common = {"batch_size": batch_size, "warmup": 0.1}
    return {
        "beginnings": (BEGINNING, {"n_epochs": n_beginnings, "learning_rate": learning_rate} | common),
        "whole": (None, {"n_epochs": n_whole, "learning_rate": learning_rate / 2} | common),
    }


PLAIN: Phases = {"whole": (None, {})}
PHASES = {"RememberColor3": PLAIN, "RememberColor5": two_phases(16, 16), "RememberColor9": two_phases(7, 6)}
EPISODES, EVALUATION_SEED = 100, 100_000
EVALUATION = {"episodes": EPISODES, "first seed": EVALUATION_SEED}
N_ENVS = 10


class Beginnings(Episodes):
    """
    The first steps of the episodes of a data set.

    :param episodes: The data set.
    :param steps: How many to keep.
    """

    def __init__(self, episodes: Episodes, steps: int) -> None:
        super().__init__(episodes.observation_space, episodes.action_space, cache_bytes=0)
        self.episodes, self.steps, self.lengths = episodes, steps, np.minimum(episodes.lengths, steps)

    def _load(self, index: int) -> Episode:
        episode = self.episodes[index]
        observed, first = episode.observations, slice(self.steps)
        kept = {key: values[first] for key, values in observed.items()} if isinstance(observed, dict) else observed[first]
        return Episode(kept, episode.actions[first], episode.rewards[first])


def demonstrate(task: str, data: Path) -> Path:
    """Record demonstrations, and label them for all answers where the task needs that; return their folder."""
    env_id, recorded, labelled = f"Mikasa{task}-v0", data / task, data / f"{task}_answers"
    record(env_id, "oracle", recorded, DEMONSTRATIONS[task], noise=NOISE, progress_bar=True)
    if PHASES[task] is PLAIN:
        return recorded
    label_answers(env_id, recorded, DEMONSTRATIONS[task], labelled)
    return labelled


def run(task: str, agent: str, seed: int, data: Path, runs: Path) -> None:
    """Record, train and evaluate, and write the result."""
    settings = read_settings("bc_elmur.yml", f"Mikasa{task}-v0")
    policy_kwargs = settings["policy_kwargs"] | AGENTS[agent]
    env = make_batch(f"Mikasa{task}-v0", N_ENVS)
    episodes = NpzEpisodes(demonstrate(task, data), env.observation_space, env.action_space)
    normalized = fit_normalization(env, episodes)
    start = time.process_time()
    model = RecurrentPPO("ElmurPolicy", normalized, policy_kwargs=policy_kwargs, seed=seed, device="cpu", verbose=1)
    clone(model, NormalizedEpisodes(episodes, normalized), settings, PHASES[task], runs / run_name(task, agent, seed))
    report = {
        "task": task,
        "agent": agent,
        "settings": settings | {"policy_kwargs": policy_kwargs},
        "phases": PHASES[task],
        "demonstrations": {"recorded": DEMONSTRATIONS[task], "noise": NOISE, "labelled": len(episodes)},
        "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
        "CPU seconds": {"training, of this process alone": round(time.process_time() - start, 1)},
        "evaluation": EVALUATION,
        **judge(model.policy, normalized),
        **provenance(seed),
    }
    write_json(result_path(task, agent, seed), report)
    env.close()


def clone(model: RecurrentPPO, episodes: Episodes, settings: dict[str, Any], phases: Phases, folder: Path) -> None:
    """
    Train on episodes in phases, and save model and normalisation.

    :param model: With a normalised environment.
    :param episodes: Normalised, too.
    :param settings: Of ``bc_elmur.yml``.
    :param phases: What they change.
    :param folder: Where all files go.
    """
    for phase, (steps, changes) in phases.items():
        phase_episodes = episodes if steps is None else Beginnings(episodes, steps)
        trainer = BC(model, phase_episodes, make_config(settings | changes))
        trainer.train(folder / phase, progress_bar=True)
    trainer.save(folder / MODEL)
    model.get_vec_normalize_env().save(str(folder / NORMALIZATION))


def judge(policy: ElmurPolicy, env: VecEnv) -> dict[str, Any]:
    """Success and return of the most probable actions in the episodes of evaluation."""
    played: list[dict[str, float]] = []
    while len(played) < EPISODES:  # their seeds follow one another
        played += run_episodes(policy, env, EVALUATION_SEED + len(played))
    success = float(np.mean([episode["is_success"] for episode in played[:EPISODES]]))
    return {
        "success once": success,
        "95% interval": [round(bound, 4) for bound in wilson_interval(success, EPISODES)],
        "mean return": round(float(np.mean([episode["return"] for episode in played[:EPISODES]])), 3),
    }


def run_name(task: str, agent: str, seed: int) -> str:
    """What names a run's files."""
    return f"{task}_{agent.replace(' ', '_')}_{seed}"


def result_path(task: str, agent: str, seed: int) -> Path:
    """Where a result goes."""
    return FOLDER / f"{run_name(task, agent, seed)}.json"


def report(folder: Path, tasks: Iterable[str]) -> None:
    """Print a table of the results of some tasks in a folder."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows = []
    for task, agent in itertools.product(tasks, AGENTS):
        runs = [result for result in results if (result["task"], result["agent"]) == (task, agent)]
        if runs:
            success = np.array([result["success once"] for result in runs])
            error = f" ± {success.std(ddof=1) / len(runs) ** 0.5:.2f}" if len(runs) > 1 else ""
            shown = f"{success.mean():.2f}{error} ({success.min():.2f})"
            seconds = round(np.mean([result["CPU seconds"]["training, of this process alone"] for result in runs]))
            demonstrations, parameters = runs[0]["demonstrations"]["recorded"], runs[0]["parameters"]
            rows.append([task, agent, parameters, demonstrations, seconds, len(runs), shown])
    header = ["task", "agent", "parameters", "demonstrations", "training, CPU s", "seeds", "success: mean ± s.e. (worst)"]
    print(markdown_table(header, rows))


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=DEMONSTRATIONS, default=list(DEMONSTRATIONS), metavar="TASK")
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS), metavar="AGENT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "sb3-elmur-mikasa", help="demonstrations")
    parser.add_argument("--runs", type=Path, default=Path("logs") / "mikasa_bc", help="checkpoints")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options = parser.parse_args()
    th.set_num_threads(1)
    if not options.report:
        for seed, task, agent in itertools.product(options.seeds, options.tasks, options.agents):
            if not result_path(task, agent, seed).exists():
                run(task, agent, seed, options.data, options.runs)
    report(FOLDER, DEMONSTRATIONS)


if __name__ == "__main__":
    main()

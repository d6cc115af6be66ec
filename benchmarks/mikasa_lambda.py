"""
How much of a slot a write replaces (lambda), and for how long the cue is kept: RememberColor3 by behaviour cloning.

    python benchmarks/mikasa_lambda.py                               # every run that has no result yet
    python benchmarks/mikasa_lambda.py --run 60 0.5 4 0              # one run: steps without the cue, lambda or gated, M, seed
    python benchmarks/mikasa_lambda.py --report                      # tables and figure of what is there

In the "state_cue" mode. Between the cue and the choice the table is empty for ``delta_time`` steps, five in the suite. Of each
motion the steps up to 25 after the choice are recorded, with any share of random actions, so that the arm's place tells
nothing. Demonstrations go to ``--data``. Every result is
``benchmarks/results/mikasa_lambda/<delta_time>_<blend>_<M>_<seed>.json``, and is not repeated once it is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch as th
from common import RESULTS, markdown_table, mean_and_worst, provenance, write_file, write_json
from mikasa_bc import EPISODES, EVALUATION, N_ENVS, judge
from mikasa_demonstrations import CUE, NOISE

from sb3_elmur import RecurrentPPO
from sb3_elmur.bc.trainer import BC
from sb3_elmur.comparison.cloning import make_config
from sb3_elmur.datasets.episodes import NpzEpisodes
from sb3_elmur.datasets.normalizing import NormalizedEpisodes, fit_normalization
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.evaluation import wilson_interval
from sb3_elmur.recording import record
from sb3_elmur.settings import read_settings

FOLDER = RESULTS / "mikasa_lambda"
FIGURE = RESULTS.parents[1] / "docs" / "mikasa_lambda.png"
ENV_ID = "MikasaRememberColor3-v0"
SUCCESS = "success once"  # the key of a result
N_MOTIONS, AFTER = 400, 25  # motions, and their steps after the choice
LAMBDAS = (0.0, 0.05, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
BLENDS = (*(f"{weight:g}" for weight in LAMBDAS), "gated")
SLOTS = (1, 4)
DELTA_TIMES = (20,)
SEEDS = (0, 1, 2)
MEASURES = (SUCCESS, "mean return")


class Run(NamedTuple):
    """
    One agent that is trained and evaluated.

    :param delta_time: Steps between cue and choice.
    :param blend: A lambda, or "gated".
    :param slots: M.
    :param seed: Of everything.
    """

    delta_time: int
    blend: str
    slots: int
    seed: int

    @property
    def path(self) -> Path:
        """Where its result goes."""
        return FOLDER / ("_".join(map(str, self)) + ".json")

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Of the environment."""
        return {"delta_time": self.delta_time}


def perform(run: Run, data: Path) -> None:
    """Record, train and evaluate, and write the result."""
    recorded = data / f"RememberColor3_delta_{run.delta_time}"
    beginning = run.env_kwargs | {"max_episode_steps": CUE + run.delta_time + AFTER}
    record(ENV_ID, "oracle", recorded, N_MOTIONS, noise=NOISE, env_kwargs=beginning, progress_bar=True)
    settings = read_settings("bc_elmur.yml", ENV_ID)
    length = settings["policy_kwargs"]["segment_length"]
    settings["bptt_segments"] = 1 + -(-(CUE + run.delta_time) // length)  # from the cue to the choice, and beyond
    blend = {"blend": "gated"} if run.blend == "gated" else {"blend": "fixed", "lru_blend": float(run.blend)}
    policy_kwargs = settings["policy_kwargs"] | {"memory_size": run.slots, "norm_first": True} | blend
    env = make_batch(ENV_ID, N_ENVS, run.env_kwargs)
    episodes = NpzEpisodes(recorded, env.observation_space, env.action_space)
    normalized = fit_normalization(env, episodes)
    start = time.process_time()
    model = RecurrentPPO("ElmurPolicy", normalized, policy_kwargs=policy_kwargs, seed=run.seed, device="cpu")
    config = make_config(settings)
    BC(model, NormalizedEpisodes(episodes, normalized), config).train(progress_bar=True)
    trained = time.process_time()
    report = {
        "run": run._asdict(),
        "env_kwargs": run.env_kwargs,
        "policy_kwargs": policy_kwargs,
        "training": asdict(config),
        "demonstrations": {"recorded": N_MOTIONS, "noise": NOISE},
        "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
        "evaluation": EVALUATION,
        **judge(model.policy, normalized),
        "training CPU seconds": round(trained - start, 1),
        **provenance(run.seed),
    }
    write_json(run.path, report)
    env.close()


def runs() -> list[Run]:
    """All runs, seed by seed."""
    return [Run(*run, seed) for seed in SEEDS for run in itertools.product(DELTA_TIMES, BLENDS, SLOTS)]


def results() -> dict[tuple[int, str, int], list[dict[str, Any]]]:
    """Results of all seeds by delta_time, blend and slots."""
    found = defaultdict(list)
    for path in sorted(FOLDER.glob("*.json")):
        result = json.loads(path.read_text())
        if (run := Run(**result["run"])).seed in SEEDS:
            found[tuple(run)[:3]].append(result)
    return found


def report() -> None:
    """Print tables, and draw the figure."""
    found = results()
    figure, axes = plt.subplots(len(MEASURES), len(SLOTS), figsize=(8, 5), layout="constrained", sharey="row", squeeze=False)
    for measure, row in zip(MEASURES, axes, strict=True):
        values = {run: [result[measure] for result in seeds] for run, seeds in found.items()}
        print(measure)
        table = [
            [delta_time, slots, *(mean_and_worst(values.get((delta_time, blend, slots), [])) for blend in BLENDS)]
            for delta_time, slots in itertools.product(DELTA_TIMES, SLOTS)
        ]
        print(markdown_table(["steps without the cue", "M", *BLENDS], table))
        for axis, slots in zip(row, SLOTS, strict=True):
            for color, delta_time in enumerate(DELTA_TIMES):
                seeds = [values.get((delta_time, blend, slots), []) for blend in BLENDS]
                means = [np.mean(each) if each else np.nan for each in seeds]
                axis.plot(range(len(LAMBDAS)), means[: len(LAMBDAS)], color=f"C{color}", label=f"{delta_time} steps")
                for x, each in enumerate(seeds):
                    axis.plot([x] * len(each), each, "o", ms=3, color=f"C{color}")
                    if each and measure == SUCCESS:
                        interval = wilson_interval(float(np.mean(each)), len(each) * EPISODES)
                        axis.vlines(x, *interval, color=f"C{color}", alpha=0.5)
            axis.set(title=f"M = {slots}", xlabel="λ", xticks=range(len(BLENDS)))
            axis.set_ylim(0, 1.03 if measure == SUCCESS else None)
            axis.set_xticklabels(BLENDS, fontsize=7)
            axis.grid(alpha=0.3)
            if measure == SUCCESS:
                axis.axhline(1 / 3, ls=":", color="gray")
        row[0].set_ylabel(measure)
    axes[0, 0].legend(fontsize=7, title="without the cue", title_fontsize=7)
    write_file(FIGURE, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def main() -> None:
    """Run, or report, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "sb3-elmur-mikasa", help="demonstrations")
    parser.add_argument("--run", nargs=4, metavar=("DELTA_TIME", "BLEND", "M", "SEED"), help="one run")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options = parser.parse_args()
    th.set_num_threads(1)
    if options.run:
        delta_time, blend, slots, seed = options.run
        perform(Run(int(delta_time), blend, int(slots), int(seed)), options.data)
        return
    if not options.report:
        for run in runs():
            if not run.path.exists():
                perform(run, options.data)
    report()


if __name__ == "__main__":
    main()

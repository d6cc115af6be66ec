"""
Whether what is learned in short episodes holds in long ones, by segment length L and slots M: the passive T-Maze, by reward.

    python benchmarks/longer_than_trained.py                 # every run that has no result yet
    python benchmarks/longer_than_trained.py --run 16 8 0    # one run: L, M, seed
    python benchmarks/longer_than_trained.py --report        # a table of what is there

Training: corridors of 3 to 30 steps, the defaults of ``RecurrentPPO``, 16 environments. Every result is
``benchmarks/results/longer_than_trained/<L>_<M>_<seed>.json``, and is not repeated once it is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time

import torch as th
from common import RESULTS, markdown_table, mean_and_worst, provenance, write_json

from sb3_elmur import RecurrentPPO
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.evaluation import Corridors

FOLDER = RESULTS / "longer_than_trained"
ENV_KWARGS = {"corridor_length": (1, 28), "reward": "eased"}
N_ENVS, N_STEPS = 16, 200_000
AGENTS = ((16, 8), (16, 1), (5, 8), (5, 2))  # L, M
SEEDS = (0, 1, 2, 3, 4)
LENGTHS, N_EPISODES, EVALUATION_SEED = (30, 100, 300, 1_000, 10_000), 100, 1_000
TRAINED = LENGTHS[0]


def perform(length: int, slots: int, seed: int) -> None:
    """Train and evaluate, and write the result."""
    start = time.process_time()
    policy_kwargs = {"segment_length": length, "memory_size": slots}
    env = make_batch("TMazePassive-v0", N_ENVS, ENV_KWARGS)
    model = RecurrentPPO("ElmurPolicy", env, policy_kwargs=policy_kwargs, seed=seed, device="cpu")
    model.learn(N_STEPS)
    trained = time.process_time() - start
    corridors = Corridors(model.policy, LENGTHS, N_EPISODES, EVALUATION_SEED)
    corridors.finish()
    report = {
        "policy_kwargs": policy_kwargs,
        "env_kwargs": ENV_KWARGS,
        "n_envs": N_ENVS,
        "steps": model.num_timesteps,
        "episodes": N_EPISODES,
        "success": {str(steps): float(success.mean()) for steps, success in corridors.results.items()},
        "training CPU seconds": round(trained, 1),
        **provenance(seed),
    }
    write_json(FOLDER / f"{length}_{slots}_{seed}.json", report)


def report() -> None:
    """Print a table."""
    rows = []
    for length, slots in AGENTS:
        paths = [FOLDER / f"{length}_{slots}_{seed}.json" for seed in SEEDS]
        found = [json.loads(path.read_text())["success"] for path in paths if path.exists()]
        if found:
            cells = [mean_and_worst([one[str(steps)] for one in found]) for steps in LENGTHS]
            rows.append([length, slots, -(-TRAINED // length), len(found), *cells])
    print(markdown_table(["L", "M", "segments in training", "seeds", *(f"{steps:,}" for steps in LENGTHS)], rows))


def main() -> None:
    """Run, or report, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=3, type=int, metavar=("L", "M", "SEED"), help="one run")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options = parser.parse_args()
    th.set_num_threads(1)
    if options.run:
        perform(*options.run)
        return
    if not options.report:
        for seed, (length, slots) in itertools.product(SEEDS, AGENTS):
            if not (FOLDER / f"{length}_{slots}_{seed}.json").exists():
                perform(length, slots, seed)
    report()


if __name__ == "__main__":
    main()

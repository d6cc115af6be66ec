"""
Environment steps per second of ``TMazeVecEnv.step``, beside a ``DummyVecEnv`` of the single environment.

    python benchmarks/tmaze_speed.py

writes ``benchmarks/results/tmaze_speed.json``. One step counts once per environment, its info included; actions are
drawn (or asked of the oracle) outside the timed part. Run it on one core: ``OMP_NUM_THREADS=1 taskset -c 0 ...``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, provenance, write_json
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_elmur.envs import TMazeEnv, TMazeVecEnv

CASES: dict[str, dict[str, Any]] = {
    "length 30": {"length": 30},
    "length 1000": {"length": 1000},
    "length 30, corridors 1 to 28, penalty": {"length": 30, "corridor_length": (1, 28), "reward": "penalty"},
    "length 30, active, eased": {"length": 30, "active": True, "reward": "eased"},
}


def steps_per_second(venv: VecEnv, next_actions: Callable[[], np.ndarray], n_steps: int) -> float:
    """
    Time ``n_steps`` calls of ``step``.

    :param venv: environment that has been reset
    :param next_actions: gives the actions of a step; its time is not counted
    :param n_steps: number of calls
    :return: environment steps per second
    """
    seconds = 0.0
    for _ in range(n_steps):
        actions = next_actions()
        start = time.perf_counter()
        venv.step(actions)
        seconds += time.perf_counter() - start
    return n_steps * venv.num_envs / seconds


def summarise(venv: VecEnv, next_actions: Callable[[], np.ndarray], n_steps: int, repeats: int) -> dict[str, int]:
    """Repeat :func:`steps_per_second` after a warm-up; return the median and the extremes."""
    venv.seed(0)
    venv.reset()
    steps_per_second(venv, next_actions, n_steps // 10)
    speeds = [steps_per_second(venv, next_actions, n_steps) for _ in range(repeats)]
    return {"median": round(statistics.median(speeds)), "min": round(min(speeds)), "max": round(max(speeds))}


def main() -> None:
    """Measure every case, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-envs", type=int, default=256)
    parser.add_argument("--n-steps", type=int, default=3000, help="timed steps of each repeat")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "tmaze_speed.json")
    args = parser.parse_args()

    rng = np.random.default_rng(0)

    def random_actions() -> np.ndarray:
        return rng.integers(4, size=args.n_envs)

    results: dict[str, dict[str, dict[str, int]]] = {}
    for name, arguments in CASES.items():
        batch = TMazeVecEnv(args.n_envs, **arguments)
        singles = DummyVecEnv([partial(TMazeEnv, **arguments)] * args.n_envs)
        results[name] = {
            "TMazeVecEnv, random actions": summarise(batch, random_actions, args.n_steps, args.repeats),
            "TMazeVecEnv, oracle actions": summarise(batch, batch.oracle_actions, args.n_steps, args.repeats),
            "DummyVecEnv, random actions": summarise(singles, random_actions, args.n_steps // 30, args.repeats),
        }
        print(name, json.dumps(results[name], indent=2))

    report = {
        "unit": "environment steps per second",
        **provenance(seed=0),
        "settings": {"n_envs": args.n_envs, "n_steps": args.n_steps, "repeats": args.repeats},
        "results": results,
    }
    write_json(args.out, report)


if __name__ == "__main__":
    main()

"""
Environment steps per second of ``POPGymVecEnv.step``, beside a ``DummyVecEnv`` of the single environment.

    python benchmarks/popgym_speed.py

writes ``benchmarks/results/popgym_speed.json``. One step counts once per environment, its info and the starts of new
episodes included; actions are random and drawn outside the timed part. Time is CPU time of the process, which other
processes disturb less than the clock on the wall: run it with ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

from common import RESULTS, provenance, write_json
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_elmur.envs import POPGymEnv, POPGymVecEnv
from sb3_elmur.envs.popgym.vec import FAMILIES

SIZES = (64, 256)
BLOCK = 10


def steps_per_second(venv: VecEnv, seconds: float) -> int:
    """
    Time steps under random actions, after one block of warm-up.

    :param venv: what to step
    :param seconds: CPU time to spend
    :return: environment steps per second
    """
    sampler = batch_space(venv.action_space, venv.num_envs)
    sampler.seed(0)
    venv.seed(0)
    venv.reset()
    spent, n_steps = 0.0, -BLOCK
    while spent < seconds or n_steps <= 0:
        actions = [sampler.sample() for _ in range(BLOCK)]
        start = time.process_time()
        for action in actions:
            venv.step(action)
        spent = 0.0 if n_steps < 0 else spent + time.process_time() - start
        n_steps += BLOCK
    return round(n_steps * venv.num_envs / spent)


def main() -> None:
    """Measure the Easy task of every family, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU time of each measurement")
    parser.add_argument("--out", type=Path, default=RESULTS / "popgym_speed.json")
    args = parser.parse_args()

    results: dict[str, dict[str, int]] = {}
    for family in FAMILIES:
        task = f"{family}Easy"
        results[task] = {}
        for n_envs in SIZES:
            singles = DummyVecEnv([partial(POPGymEnv, task)] * n_envs)
            results[task][f"POPGymVecEnv, {n_envs}"] = steps_per_second(POPGymVecEnv(n_envs, task), args.seconds)
            results[task][f"DummyVecEnv, {n_envs}"] = steps_per_second(singles, args.seconds)
        print(task, json.dumps(results[task]), flush=True)

    report = {
        "unit": "environment steps per CPU second",
        **provenance(seed=0),
        "settings": {"seconds": args.seconds},
        "results": results,
    }
    write_json(args.out, report)


if __name__ == "__main__":
    main()

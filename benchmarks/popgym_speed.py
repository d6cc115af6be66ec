"""Environment steps per second of ``POPGymVecEnv.step``, beside a ``DummyVecEnv`` of the single environment.

    python benchmarks/popgym_speed.py

writes ``benchmarks/results/popgym_speed.json``. One step counts once per environment, its info included; actions are
random and drawn outside the timed part. Run it on one core: ``OMP_NUM_THREADS=1 taskset -c 0 ...``.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
from common import RESULTS, provenance, write_json
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import DummyVecEnv
from tmaze_speed import summarise

from sb3_elmur.envs import POPGymEnv, POPGymVecEnv
from sb3_elmur.envs.popgym_vec import FAMILIES

SIZES = (64, 256)


def main() -> None:
    """Measure the Easy task of every family, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-steps", type=int, default=1000, help="timed steps of each repeat; DummyVecEnv takes 1/50 of them")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "popgym_speed.json")
    args = parser.parse_args()

    results: dict[str, dict[str, dict[str, int]]] = {}
    for family in FAMILIES:
        task = f"{family}Easy"
        results[task] = {}
        for n_envs in SIZES:
            batch = POPGymVecEnv(n_envs, task)
            singles = DummyVecEnv([partial(POPGymEnv, task)] * n_envs)
            sampler = batch_space(batch.action_space, n_envs)
            sampler.seed(0)
            for name, venv, n_steps in (("POPGymVecEnv", batch, args.n_steps), ("DummyVecEnv", singles, args.n_steps // 50)):
                results[task][f"{name}, {n_envs}"] = summarise(venv, sampler.sample, n_steps, args.repeats)
        print(task, json.dumps(results[task]), flush=True)

    report = {
        "unit": "environment steps per second",
        **provenance(seed=0),
        "settings": {"n_steps": args.n_steps, "repeats": args.repeats},
        "results": results,
    }
    write_json(args.out, report)


if __name__ == "__main__":
    main()

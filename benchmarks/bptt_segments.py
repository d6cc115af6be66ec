"""
Does the gradient through memory help? Online T-Maze with chains of 1, 2 and 3 segments, and the unmodified RecurrentPPO.

    python benchmarks/bptt_segments.py [--seeds 5] [--steps 200000] [--processes 2]

All agents use the settings of ``zoo_configs/ppo_elmur.yml``, but fixed blending and three segments an episode; only class and
``bptt_segments`` differ. The unmodified class runs with detached memory, which is what one segment per chain is. Writes
``results/bptt_segments.json``: success over 100 corridors at the trained length during training, and by length at the end.
"""

import argparse
import json
import multiprocessing
import os
import time
from typing import Any

import numpy as np
import sb3_contrib
import torch as th
from common import RESULTS, markdown_table, provenance, write_json
from demo import LENGTH, corridor_success, demo_settings
from stable_baselines3.common.callbacks import BaseCallback

import sb3_elmur
from sb3_elmur.envs import TMazeVecEnv

AGENTS: dict[str, dict[str, Any]] = {
    "unmodified, detached": {},
    "1 segment": {"bptt_segments": 1},
    "2 segments": {"bptt_segments": 2},
    "3 segments": {"bptt_segments": 3},
}
FIXED = {"segment_length": 10, "memory_size": 2, "blend": "fixed"}
LENGTHS = (30, 60, 100, 200, 300, 600, 1000)
EVALUATE_EVERY = 16_384


class Curve(BaseCallback):
    """Success rate at the trained length, at the end of rollouts."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps >= EVALUATE_EVERY * (len(self.points) + 1):
            self.points.append((self.num_timesteps, corridor_success(self.model.policy, [LENGTH], 1000 + self.seed)[LENGTH]))


def run(job: tuple[str, int, int]) -> dict[str, Any]:
    """Train one agent with one seed and evaluate it."""
    agent, seed, steps = job
    th.set_num_threads(1)
    settings = demo_settings()
    env = TMazeVecEnv(settings.pop("n_envs"), length=LENGTH, seed=seed, **settings.pop("env_kwargs"))
    del settings["n_timesteps"], settings["policy"]
    policy_kwargs, arguments = settings.pop("policy_kwargs") | FIXED, AGENTS[agent]
    cls = sb3_elmur.RecurrentPPO if arguments else sb3_contrib.RecurrentPPO
    if not arguments:
        policy_kwargs["detach_memory"] = True
    model = cls("ElmurPolicy", env, policy_kwargs=policy_kwargs, seed=seed, device="cpu", **settings, **arguments)
    curve, start = Curve(seed), time.process_time()
    model.learn(steps, callback=curve)
    return {
        "agent": agent,
        "seed": seed,
        "cpu_seconds": round(time.process_time() - start, 1),
        "curve": curve.points,
        "success_by_length": corridor_success(model.policy, LENGTHS, 2000 + seed),
    }


def first_solved(curve: list[tuple[int, float]]) -> float:
    """Environment steps after which the success rate stays at 0.95 or more, infinite if it does not."""
    below = [i for i, (_, rate) in enumerate(curve) if rate < 0.95]
    stays = below[-1] + 1 if below else 0
    return curve[stays][0] if stays < len(curve) else float("inf")


def main() -> None:
    """Train what the command line asks for, and write results and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    jobs = [(agent, seed, arguments.steps) for seed in range(arguments.seeds) for agent in AGENTS]
    runs = []
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for result in pool.imap_unordered(run, jobs):
            runs.append(result)
            print(json.dumps(result), flush=True)
    runs.sort(key=lambda result: (list(AGENTS).index(result["agent"]), result["seed"]))
    write_json(RESULTS / "bptt_segments.json", {"steps": arguments.steps, **provenance(seed=0), "runs": runs})
    rows = []
    for agent in AGENTS:
        own = [result for result in runs if result["agent"] == agent]
        solved = np.median([first_solved(result["curve"]) for result in own])
        by_length = [np.mean([result["success_by_length"][length] for result in own]) for length in LENGTHS]
        seconds = np.median([result["cpu_seconds"] for result in own])
        rows.append([agent, f"{solved:,.0f}", *(f"{rate:.2f}" for rate in by_length), f"{seconds:.0f}"])
    print(markdown_table(["agent", "solved after (median)", *map(str, LENGTHS), "CPU seconds"], rows))


if __name__ == "__main__":
    main()

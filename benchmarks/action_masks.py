"""
Steps until a task with many invalid actions is learned, with action masks and without.

    python benchmarks/action_masks.py [--seeds 3]

A cue is shown once; at each of eight steps the agent has to name it. Few choices are valid, others at every step, the cue
among them. An invalid action earns nothing, as a wrong one does. Writes ``results/action_masks.json``: the steps after which
the last 100 episodes of the training had a mean return of at least 0.9 of the best.
"""

import argparse
import json
import time
from typing import Any

import gymnasium
import numpy as np
import torch as th
from common import RESULTS, markdown_table, provenance, write_json
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_elmur import RecurrentPPO

N_ACTIONS, N_VALID, LENGTH = 30, 4, 8
GOAL, MOST_STEPS = 0.9, 100_000
SETTINGS: dict[str, Any] = {
    "n_steps": 32, "batch_size": 128, "learning_rate": 2e-3, "bptt_segments": 2, "trust_region": None, "averaging": 0.0,
    "policy_kwargs": {"d_model": 32, "n_layers": 1, "memory_size": 2, "segment_length": 4},
}  # fmt: skip


class NameTheCue(gymnasium.Env[np.ndarray, int]):
    """The task."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Box(0, 1, (N_ACTIONS,)), spaces.Discrete(N_ACTIONS)

    def action_masks(self) -> np.ndarray:
        """Which choices are valid, (n,) bool."""
        return self._mask

    def _draw_mask(self) -> None:
        others = np.delete(np.arange(N_ACTIONS), self._cue)
        self._mask = np.zeros(N_ACTIONS, dtype=bool)
        self._mask[[self._cue, *self.np_random.choice(others, N_VALID - 1, replace=False)]] = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Show the cue."""
        super().reset(seed=seed)
        self._time, self._cue = 0, int(self.np_random.integers(N_ACTIONS))
        self._draw_mask()
        observation = np.zeros(N_ACTIONS, dtype=np.float32)
        observation[self._cue] = 1
        return observation, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Reward the cue."""
        self._time += 1
        self._draw_mask()
        reward = float(action == self._cue) / LENGTH
        return np.zeros(N_ACTIONS, dtype=np.float32), reward, self._time == LENGTH, False, {}


class StopWhenLearned(BaseCallback):
    """Ends the training where the goal is reached."""

    def _on_step(self) -> bool:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        return len(returns) < 100 or float(np.mean(returns)) < GOAL


def run(use_masking: bool, seed: int) -> dict[str, Any]:
    """Train one agent."""
    th.set_num_threads(1)
    env, start = make_vec_env(NameTheCue, 16, seed=seed), time.process_time()
    model = RecurrentPPO("ElmurPolicy", env, seed=seed, device="cpu", **SETTINGS)
    model.learn(MOST_STEPS, callback=StopWhenLearned(), use_masking=use_masking)
    learned = model.num_timesteps < MOST_STEPS
    return {
        "masks": use_masking,
        "seed": seed,
        "steps": model.num_timesteps,
        "learned": learned,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def main() -> None:
    """Train with and without masks, and write results and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    runs = []
    for use_masking in (True, False):
        for seed in range(arguments.seeds):
            runs.append(run(use_masking, seed))
            print(json.dumps(runs[-1]), flush=True)
    write_json(RESULTS / "action_masks.json", {"goal": GOAL, "most_steps": MOST_STEPS, **provenance(seed=0), "runs": runs})
    rows = []
    for use_masking, name in ((True, "with masks"), (False, "without masks")):
        own = [result for result in runs if result["masks"] == use_masking]
        steps = ", ".join(f"{result['steps']:,}" + ("" if result["learned"] else " (not learned)") for result in own)
        rows.append([name, steps, f"{np.median([result['cpu_seconds'] for result in own]):.0f}"])
    print(markdown_table(["", "steps until learned, by seed", "CPU seconds (median)"], rows))


if __name__ == "__main__":
    main()

"""
Bytes of recurrent state that the rollout buffer stores per environment step, and peak process memory.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/state_memory.py

writes ``benchmarks/results/state_memory.json``. Contestants are the recurrent ones of ``training_speed.py``, each in a
process of its own; episodes last 60 steps. LSTMs get as many parameters as ELMUR.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from common import RESULTS, markdown_table, provenance, write_json
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from training_speed import DESCRIPTIONS, ELMUR, recurrent_model

N_STEPS = 128
BATCH_SIZE = 128
EPISODE_LENGTH = 60
CONTESTANTS = ("elmur", "elmur-host", "lstm-two", "lstm-shared")
STATES = ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf")
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "small": dict(n_envs=8, elmur=ELMUR),
    "RememberColor": dict(n_envs=2, elmur=dict(n_layers=4, d_model=128, n_heads=16, segment_length=20, memory_size=256)),
}


class FixedLength(gym.Env):
    """Noise for :data:`EPISODE_LENGTH` steps; actions do nothing."""

    observation_space = spaces.Box(-1.0, 1.0, (4,))
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self._steps = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Go on."""
        self._steps += 1
        return self._observation(), 0.0, self._steps == EPISODE_LENGTH, False, {}

    def _observation(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 4).astype(np.float32)


def peak() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def state_bytes(buffer: Any) -> int:
    """Return the bytes of recurrent state in a rollout buffer: what it says itself, else the arrays of sb3-contrib."""
    stated = getattr(buffer, "state_bytes", None)
    return sum(getattr(buffer, name).nbytes for name in STATES) if stated is None else int(stated)


def measure(contestant: str, configuration: str, seed: int) -> dict[str, int]:
    """
    Collect one rollout and update on it once, in this process.

    :param contestant: one of :data:`CONTESTANTS`
    :param configuration: one of :data:`CONFIGURATIONS`
    :param seed: seed of the algorithm
    """
    th.set_num_threads(1)
    n_envs, elmur = CONFIGURATIONS[configuration]["n_envs"], CONFIGURATIONS[configuration]["elmur"]
    imported = peak()
    venv = DummyVecEnv([partial(FixedLength)] * n_envs)
    arguments = dict(n_steps=N_STEPS, batch_size=BATCH_SIZE, n_epochs=1, device="cpu", seed=seed)
    model = recurrent_model(contestant, venv, elmur, **arguments)
    total = N_STEPS * n_envs
    _, callback = model._setup_learn(total)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, N_STEPS)  # type: ignore[arg-type]
    stored, collected = state_bytes(model.rollout_buffer), peak()
    model.train()
    return {
        "parameters": sum(p.numel() for p in model.policy.parameters()),
        "state_bytes_per_step": round(stored / total),
        "state_bytes": stored,
        "peak_bytes_after_imports": imported,
        "peak_bytes_after_rollout": collected,
        "peak_bytes_after_update": peak(),
    }


def main() -> None:
    """Measure each contestant in a fresh process, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "state_memory.json")
    parser.add_argument("--configuration", choices=CONFIGURATIONS, help="measure the first contestant in this process only")
    args = parser.parse_args()
    if args.configuration is not None:
        print(json.dumps(measure(args.contestants[0], args.configuration, args.seed)))
        return

    results: dict[str, dict[str, Any]] = {}
    rows = []
    for configuration in CONFIGURATIONS:
        results[configuration] = {}
        for contestant in args.contestants:
            options = ["--contestants", contestant, "--configuration", configuration, "--seed", str(args.seed)]
            run = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(run.stdout.splitlines()[-1])
            results[configuration][contestant] = result
            peaks = (round(result[f"peak_bytes_after_{what}"] / 2**20) for what in ("imports", "rollout", "update"))
            rows.append([configuration, contestant, result["parameters"], result["state_bytes_per_step"], *peaks])
    header = ["configuration", "contestant", "parameters", "state, bytes per step"]
    print(markdown_table(header + [f"peak MiB after {what}" for what in ("imports", "rollout", "update")], rows))
    report = {
        "unit": "bytes",
        **provenance(args.seed),
        "settings": dict(
            n_steps=N_STEPS, batch_size=BATCH_SIZE, episode_length=EPISODE_LENGTH, n_epochs=1, configurations=CONFIGURATIONS
        ),
        "contestants": {name: DESCRIPTIONS[name] for name in args.contestants},
        "results": results,
    }
    write_json(args.output, report)


if __name__ == "__main__":
    main()

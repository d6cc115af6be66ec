"""
Act with a saved model, one observation at a time, as a robot or a game would.

    python examples/train_online.py --output elmur_tmaze.zip
    python examples/deploy.py elmur_tmaze.zip

Both ways compute the same actions. ``predict`` packs the state into arrays, as all of Stable-Baselines3 expects. ``step``
keeps it as tensors, which saves time with large memories.
"""

import argparse
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch as th

from sb3_elmur import RecurrentPPO

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=Path)
parser.add_argument("--steps", type=int, default=1000)
arguments = parser.parse_args()

th.set_num_threads(1)  # a network this small is faster on one thread
policy = RecurrentPPO.load(arguments.model, device="cpu").policy


def act_for(steps: int, way: str) -> list[int]:
    """Act for some steps; an episode's first step says so, which clears the memory."""
    env = gymnasium.make("TMazePassive1000-v0")
    act = getattr(policy, way)
    actions, state, episode_start = [], None, True
    obs, _ = env.reset(seed=0)
    begin = time.perf_counter()
    for _ in range(steps):
        action, state = act(obs, state, episode_start=np.array([episode_start]), deterministic=True)
        obs, _, terminated, truncated, _ = env.step(action)
        episode_start = terminated or truncated
        if episode_start:
            obs, _ = env.reset()
        actions.append(int(action))
    print(f"{way:8} {(time.perf_counter() - begin) / steps * 1e3:.2f} ms per step")
    return actions


assert act_for(arguments.steps, "predict") == act_for(arguments.steps, "step")

"""
Train ELMUR online on the T-Maze, from reward alone, and evaluate it in corridors that it has not seen.

    python examples/train_online.py

The first observation shows which way to turn at the end of the corridor, up to six attention windows later. Training takes
about two minutes on one CPU core.
"""

import argparse
from pathlib import Path

from stable_baselines3.common.env_util import make_vec_env

from sb3_elmur import MemoryCallback, RecurrentPPO
from sb3_elmur.evaluation import Corridors

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--total-timesteps", type=int, default=300_000)
parser.add_argument("--output", type=Path, default=Path("elmur_tmaze.zip"))
arguments = parser.parse_args()

# Corridors of random length: the junction, not the number of steps, says when to turn. The "eased" reward keeps PPO exploring.
corridors = {"corridor_length": (1, 28), "reward": "eased"}
env = make_vec_env("TMazePassive-v0", n_envs=64, seed=0, env_kwargs=corridors)

policy_kwargs = {"segment_length": 5, "memory_size": 2}  # six segments in a corridor of 30 steps; two slots for one cue
model = RecurrentPPO("ElmurPolicy", env, policy_kwargs=policy_kwargs, seed=0, verbose=1)
model.learn(arguments.total_timesteps, callback=MemoryCallback())
model.save(arguments.output)

evaluation = Corridors(model.policy, lengths=(30, 100, 1000), n_episodes=100, seed=1000)
for length, success in evaluation.finish().items():
    print(f"{length:5} steps: success {success.mean():.2f} of {len(success)} corridors")

"""
Clone an expert from recorded episodes, then go on online with PPO.

    python examples/clone_then_finetune.py

The environment's oracle plays 1,500 T-Maze episodes, behaviour cloning learns from them, and PPO continues with the clone. It
takes about two minutes on one CPU core.
"""

import argparse
import tempfile
from pathlib import Path

from stable_baselines3.common.env_util import make_vec_env

from sb3_elmur import RecurrentPPO
from sb3_elmur.bc import BC, BCConfig
from sb3_elmur.datasets import open_episodes
from sb3_elmur.evaluation import Corridors
from sb3_elmur.recording import record

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--episodes", type=int, default=1_500)
parser.add_argument("--n-epochs", type=int, default=30)
parser.add_argument("--total-timesteps", type=int, default=50_000)
arguments = parser.parse_args()

corridors = {"corridor_length": (1, 28)}
env = make_vec_env("TMazePassive-v0", n_envs=16, seed=0, env_kwargs=corridors | {"reward": "eased"})


def show_success(model: RecurrentPPO, name: str) -> None:
    evaluation = Corridors(model.policy, lengths=(30, 300), n_episodes=100, seed=1000)
    print(name, {length: float(success.mean()) for length, success in evaluation.finish().items()})


with tempfile.TemporaryDirectory() as folder:
    data = Path(folder) / "tmaze"
    record("TMazePassive-v0", "oracle", data, arguments.episodes, env_kwargs=corridors)
    episodes = open_episodes(data, env.observation_space, env.action_space)

    model = RecurrentPPO("ElmurPolicy", env, policy_kwargs={"segment_length": 5, "memory_size": 2}, seed=0)
    BC(model, episodes, BCConfig(n_epochs=arguments.n_epochs, batch_size=32, bptt_segments=6, learning_rate=1e-3)).train()

show_success(model, "cloned:")
model.learn(arguments.total_timesteps)
show_success(model, "after PPO:")

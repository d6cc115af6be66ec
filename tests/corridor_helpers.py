"""Random policies for the corridors of the T-Maze, and how they fare when stepped."""

import sys
from itertools import product
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from helpers import make_policy
from sb3_elmur import ElmurPolicy
from sb3_elmur.envs import TMazeEnv, TMazeVecEnv
from sb3_elmur.envs.tmaze.env import Action
from sb3_elmur.evaluation import Corridors, run_episodes

SPACES = (TMazeEnv().observation_space, spaces.Discrete(4))
N_AGENTS = 60


class DoubleExtractor(FlattenExtractor):
    """Features in float64, so that no two ways to compute the same logits round to different actions."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations).double()


def prefer_right(policy: ElmurPolicy, right: float) -> None:
    """Draw an action network that prefers to move right unless at the junction, by so many standard deviations."""
    seen = th.tensor(list(product([0.0], [-1.0, 0.0, 1.0], [0.0, 1.0], [-1.0, 0.0, 1.0])))
    seen = nn.functional.pad(seen, (0, policy.observation_space.shape[0] - seen.shape[1]))
    one_step = th.ones(len(seen), dtype=th.int64)
    with th.no_grad():
        latent, _ = policy.replay(seen, policy.initial_memories(len(seen))[0], one_step)
        corridor, junction = latent[seen[:, 2] == 0].mean(0), latent[seen[:, 2] == 1].mean(0)
        away = (corridor - junction) / (corridor - junction).square().sum()
        policy.action_net.weight.normal_(std=len(away) ** -0.5)
        policy.action_net.weight[Action.RIGHT] += right * away
        policy.action_net.bias[Action.RIGHT] = -right * (corridor + junction) @ away / 2


def corridor_policy(
    seed: int = 5, right: float = 4.0, spaces: tuple[spaces.Space, spaces.Space] = SPACES, **arguments: Any
) -> ElmurPolicy:
    """A random policy for corridors."""
    th.manual_seed(seed)
    policy = make_policy(*spaces, features_extractor_class=DoubleExtractor, **arguments).double()
    prefer_right(policy, right)
    return policy


def walked(corridors: Corridors, n_segments: int = sys.maxsize) -> Corridors:
    """The corridors after so many segments, or finished."""
    while not corridors.finished and n_segments > 0:
        corridors.advance()
        n_segments -= 1
    return corridors


def stepped(policy: ElmurPolicy, length: int, n_episodes: int, seed: int) -> list[float]:
    """Who succeeds in corridors that are stepped."""
    return [episode["is_success"] for episode in run_episodes(policy, TMazeVecEnv(n_episodes, length=length), seed)]

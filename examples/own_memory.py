"""
Train a memory of your own on the T-Maze: a minGRU (arXiv 2410.01201, section 3.1), whose gate does not look at its state.

    python examples/own_memory.py
"""

import argparse

import torch as th
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor, nn

from sb3_elmur import RecurrentPPO
from sb3_elmur.core import ElmurConfig, RecurrentCore
from sb3_elmur.evaluation import Corridors
from sb3_elmur.testing import check_core


class MinGRU(RecurrentCore):
    """``h_t = (1 - z_t) h_{t-1} + z_t c_t``: gate z and candidate c depend on the token alone."""

    def __init__(self, config: ElmurConfig, gate_bias: float = -2.0) -> None:
        super().__init__(config)
        self.gate, self.candidate = (nn.Linear(config.d_model, config.d_model) for _ in range(2))
        nn.init.constant_(self.gate.bias, gate_bias)  # below 0, memory is kept at first
        self.mix = nn.Sequential(nn.Linear(2 * config.d_model, config.d_model), nn.GELU())

    def initial(self, batch: int) -> tuple[Tensor, ...]:
        return (self.mix[0].weight.new_zeros(batch, self.config.d_model),)

    def advance(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        hidden = th.lerp(state[0], self.candidate(x), self.gate(x).sigmoid())
        return self.mix(th.cat((x, hidden), dim=-1)), (hidden,)

    def scan(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All products with weights in parallel; optional, since `advance` alone would do."""
        hidden, hiddens = state[0], []
        for z, c in zip(self.gate(x).sigmoid().unbind(1), self.candidate(x).unbind(1), strict=True):
            hidden = th.lerp(hidden, c, z)
            hiddens.append(hidden)
        return self.mix(th.cat((x, th.stack(hiddens, dim=1)), dim=-1)), (hidden,)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--total-timesteps", type=int, default=300_000)
    arguments = parser.parse_args()
    check_core(MinGRU)
    env = make_vec_env("TMazePassive-v0", n_envs=64, seed=0, env_kwargs={"corridor_length": (1, 28), "reward": "eased"})
    policy_kwargs = {"core": MinGRU, "core_kwargs": {"gate_bias": -3.0}, "segment_length": 16}
    model = RecurrentPPO("ElmurPolicy", env, policy_kwargs=policy_kwargs, seed=0, verbose=1)
    model.learn(arguments.total_timesteps)
    evaluation = Corridors(model.policy, lengths=(30, 100), n_episodes=100, seed=1000)
    print({length: float(success.mean()) for length, success in evaluation.finish().items()})

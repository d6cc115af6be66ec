"""
Train ELMUR on an environment of your own, with Dict observations.

    python examples/own_environment.py

A symbol is shown at the first step. Steps of waiting follow, and then the agent must name the symbol. Training takes about
a minute on one CPU core; chance is 0.25.
"""

import argparse
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_elmur import RecurrentPPO
from sb3_elmur.evaluation import run_episodes


class NameTheSymbol(gymnasium.Env):
    """
    A symbol is shown once, and must be named when the waiting is over.

    :param n_symbols: How many symbols there are.
    :param waiting: Steps between the symbol and the question.
    """

    def __init__(self, n_symbols: int = 4, waiting: int = 12) -> None:
        self.n_symbols, self.waiting = n_symbols, waiting
        self.observation_space = spaces.Dict(
            {"symbol": spaces.Box(0, 1, (n_symbols,)), "question": spaces.Box(0, 1, (1,))},
        )
        self.action_space = spaces.Discrete(n_symbols)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict]:
        super().reset(seed=seed)
        self.symbol, self.time = int(self.np_random.integers(self.n_symbols)), 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        asked = self.time == self.waiting
        right = bool(action == self.symbol)
        self.time += 1
        return self._observe(), float(asked and right), asked, False, {"is_success": right} if asked else {}

    def _observe(self) -> dict[str, np.ndarray]:
        shown = np.zeros(self.n_symbols, dtype=np.float32)
        shown[self.symbol] = self.time == 0
        return {"symbol": shown, "question": np.array([self.time == self.waiting], dtype=np.float32)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-timesteps", type=int, default=100_000)
    arguments = parser.parse_args()

    model = RecurrentPPO(
        "ElmurMultiInputPolicy",  # for Dict observations; "ElmurCnnPolicy" takes images
        make_vec_env(NameTheSymbol, n_envs=16, seed=0),
        policy_kwargs={"segment_length": 4, "memory_size": 2},
        seed=0,
        verbose=1,
    )
    model.learn(arguments.total_timesteps)

    episodes = run_episodes(model.policy, make_vec_env(NameTheSymbol, n_envs=100), seed=1000)
    print(f"Success: {np.mean([episode['is_success'] for episode in episodes]):.2f} of {len(episodes)} episodes; chance 0.25")

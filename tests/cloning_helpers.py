"""Data sets in memory and trainers of small policies, for the tests of behaviour cloning."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.logger import configure

import sb3_elmur
from helpers import ACTION_SPACES, VECTOR, make_model, random_envs
from sb3_elmur.bc import BC, BCConfig
from sb3_elmur.datasets import Episode, Episodes

LENGTHS = [3, 9, 14, 1, 22, 4, 8, 5, 17, 2]  # all different, so that a length tells which episode it is
Actions = Callable[[np.ndarray], np.ndarray]


class MadeEpisodes(Episodes):
    """Random observations, and random actions or those of an expert, in memory."""

    def __init__(
        self, observation_space: spaces.Space, action_space: spaces.Space, lengths: list[int], expert: Actions | None = None
    ) -> None:
        super().__init__(observation_space, action_space, cache_bytes=0)
        self.lengths = np.array(lengths)
        observation_space.seed(0)
        action_space.seed(0)
        self.made = []
        for n in lengths:
            samples = [observation_space.sample() for _ in range(n)]
            if isinstance(observation_space, spaces.Dict):
                obs: Any = {key: np.stack([sample[key] for sample in samples]) for key in observation_space}
            else:
                obs = np.stack(samples)
            actions = np.stack([action_space.sample() for _ in range(n)]) if expert is None else expert(obs)
            self.made.append(Episode(obs, actions, np.zeros(n, dtype=np.float32)))

    def _load(self, index: int) -> Episode:
        return self.made[index]


def make_bc(
    action_space: spaces.Space = ACTION_SPACES[0],
    observation_space: spaces.Space = VECTOR,
    lengths: list[int] = LENGTHS,
    expert: Actions | None = None,
    evaluate: bool = False,
    policy: str = "ElmurPolicy",
    model: dict[str, Any] | None = None,
    policy_kwargs: dict[str, Any] | None = None,
    **config: Any,
) -> BC:
    """A trainer of a small policy; 3 batches an epoch unless told otherwise."""
    env = random_envs(1, observation_space, action_space)
    made = make_model(sb3_elmur.RecurrentPPO, env, policy, policy_kwargs=policy_kwargs or {}, **(model or {}))
    defaults = {
        "n_epochs": 2,
        "batch_size": 4,
        "bptt_segments": 2,
        "learning_rate": 1e-2,
        "eval_freq": 1,
        "n_eval_episodes": 3,
    }
    eval_env = random_envs(2, observation_space, action_space) if evaluate else None
    episodes = MadeEpisodes(observation_space, action_space, lengths, expert)
    trainer = BC(made, episodes, BCConfig(**(defaults | config)), eval_env)
    made.set_logger(configure(None, []))
    return trainer

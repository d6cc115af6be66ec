"""Long runs: memory of the process stays flat, and counters stay exact."""

import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from helpers import make_model, make_policy, random_envs
from sb3_elmur import RecurrentPPO
from sb3_elmur.envs import TMazeVecEnv

N_ENVS = 2000


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def step_policy(n_steps: int, seconds: float) -> dict[str, Any]:
    """
    Step a policy in many T-Mazes.

    :param n_steps: Environment steps in all.
    :param seconds: How long it may take.
    :return: Steps, episodes, counters that are wrong, and how much memory has grown after the first tenth.
    """
    env = TMazeVecEnv(N_ENVS, length=300, seed=0)
    policy = make_policy(env.observation_space, env.action_space, n_layers=1)
    observations, starts, state = env.reset(), np.ones(N_ENVS, dtype=bool), None
    steps, begun, early = 0, time.monotonic(), 0
    n_episodes, wrong, ages = 0, 0, np.zeros(N_ENVS, dtype=np.int64)
    while steps < n_steps and time.monotonic() - begun < seconds:
        actions, state = policy.step(observations, state, starts)
        ages = np.where(starts, 1, ages + 1)
        wrong += int((state.memory.position.numpy() != ages).sum())
        observations, _, starts, infos = env.step(actions)
        for i in np.flatnonzero(starts):
            n_episodes += 1
            wrong += int(ages[i] > 300 or "terminal_observation" not in infos[i])
        steps += N_ENVS
        if not early and (steps >= n_steps // 10 or time.monotonic() - begun > seconds / 10):
            early = resident_bytes()
    growth = round((resident_bytes() - early) / 2**20, 1)
    return {"steps": steps, "episodes": n_episodes, "wrong_counters": wrong, "growth_MiB": growth,
            "seconds": round(time.monotonic() - begun)}  # fmt: skip


def train_long(n_updates: int, seconds: float) -> dict[str, Any]:
    """
    Train with PPO.

    :param n_updates: Updates in all.
    :param seconds: How long it may take.
    :return: Updates, and how much memory has grown after the first tenth.
    """
    model = make_model(RecurrentPPO, random_envs(2), n_steps=16, batch_size=32)
    begun, early, done = time.monotonic(), 0, 0
    while done < n_updates and time.monotonic() - begun < seconds:
        model.learn(10 * 2 * 16, reset_num_timesteps=False)
        done += 10
        if not early and done >= n_updates // 10:
            early = resident_bytes()
    exact = model.num_timesteps == done * 2 * 16
    growth = round((resident_bytes() - early) / 2**20, 1)
    return {"updates": done, "exact_steps": exact, "growth_MiB": growth, "seconds": round(time.monotonic() - begun)}

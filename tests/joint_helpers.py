"""What processes do together that train one RecurrentPPO, in a module that a new process can import."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import distributed as dist
from torch import nn

import sb3_elmur
from cloning_helpers import MOE
from helpers import ACTION_SPACES, AS_THE_HOST, Kept, make_model, random_envs
from sb3_elmur.callbacks import ActionNoiseDecay
from sb3_elmur.distributed import LostProcessError, current_group, join_group

FLAT = spaces.Box(-1, 1, (3,))
DICT = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Box(-1, 1, (2,))})
N_ENVS = 4  # of all processes
N_UPDATES = 3
N_STEPS = 12


class OwnRandomEnv(gym.Env):
    """Random observations and rewards, and episodes of random length, all from the environment's own seed."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, mean_length: float = 6.0) -> None:
        self.observation_space, self.action_space, self.mean_length = observation_space, action_space, mean_length

    def _observe(self) -> Any:
        def draw(space: spaces.Space) -> np.ndarray:
            return self.np_random.uniform(-1, 1, space.shape).astype(np.float32)

        space = self.observation_space
        return {key: draw(space[key]) for key in space} if isinstance(space, spaces.Dict) else draw(space)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        terminated, truncated = self.np_random.random(2) < 0.5 / self.mean_length
        reward = float(np.float32(3.0 * self.np_random.normal()))
        return self._observe(), reward, bool(terminated), bool(truncated), {}


class GreedyPolicy(sb3_elmur.ElmurPolicy):
    """Takes the most probable action, so that what happens does not depend on which process draws a number."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return super().forward(*arguments, **named | {"deterministic": True})


class GreedyDictPolicy(GreedyPolicy, sb3_elmur.policies.ElmurMultiInputPolicy):
    """For Dict observations."""


def make_envs(n_envs: int, space: spaces.Space = FLAT, mean_length: float = 6.0, normalize: bool = False) -> VecEnv:
    env: VecEnv = DummyVecEnv([lambda: OwnRandomEnv(space, spaces.Discrete(3), mean_length)] * n_envs)
    return VecNormalize(env) if normalize else env


def make_joint(n_envs: int, **scenario: Any) -> Any:
    """A model whose rollouts do not depend on the number of processes; one minibatch an epoch."""
    scenario = dict(scenario)
    space = scenario.pop("observation_space", FLAT)
    env = make_envs(n_envs, space, scenario.pop("mean_length", 6.0), scenario.pop("normalize", False))
    policy = GreedyDictPolicy if isinstance(space, spaces.Dict) else GreedyPolicy
    arguments = {"n_steps": N_STEPS, "batch_size": None, "bptt_segments": 3, "learning_rate": 1e-3} | scenario
    return make_model(sb3_elmur.RecurrentPPO, env, policy, **arguments)


SEPARATE = {"separate_critic": True, "share_features_extractor": False}
EXACT: dict[str, dict[str, Any]] = {
    "flat": {},
    "separate, normalised": {"policy_kwargs": SEPARATE, "normalize": True},
    "dict, one segment, normalised": {"observation_space": DICT, "normalize": True, "bptt_segments": 1},
    "moe": {"policy_kwargs": MOE},
    "separate moe, one segment": {"policy_kwargs": MOE | SEPARATE, "bptt_segments": 1},
    "a narrow trust region": {"trust_region": 1e-4},
    "target_kl": {"target_kl": 1e-4, "trust_region": None, "n_epochs": 6, "learning_rate": 1e-2},
    "as the host": AS_THE_HOST,
}


def parameters(model: Any) -> th.Tensor:
    return nn.utils.parameters_to_vector(model.policy.parameters()).detach()


def learn(n_envs: int, **scenario: Any) -> dict[str, Any]:
    """Train for three updates; what came of it."""
    model = make_joint(n_envs, **scenario)
    begin = parameters(model)
    model.learn(N_UPDATES * N_STEPS * N_ENVS)
    env = model.get_vec_normalize_env()
    statistics = (
        [] if env is None else [env.ret_rms, *(env.obs_rms.values() if isinstance(env.obs_rms, dict) else [env.obs_rms])]
    )
    return {
        "begin": begin,
        "parameters": parameters(model),
        "logged": {name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")},
        "statistics": [np.append(rms.mean, rms.var) for rms in statistics],
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "progress": model._current_progress_remaining,
    }


class Watch(BaseCallback):
    """Counts its calls, and stops training at one of them."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop

    def _on_step(self) -> bool:
        return self.n_calls < self.stop


class Dying(gym.Wrapper):
    """Ends its process in a step."""

    def step(self, action: Any) -> Any:
        os._exit(0)


def traps(rank: int) -> dict[str, Any]:
    """What goes wrong where processes do not agree, tried in one of two."""
    outcome: dict[str, Any] = {}
    lengths = (2.0, 40.0)  # mean lengths of the ranks' episodes
    model = make_joint(2, mean_length=lengths[rank], batch_size=6, n_steps=24).learn(2 * 24 * N_ENVS)
    outcome["other numbers of minibatches"] = parameters(model)

    kept, watch = Kept(), Watch(stop=7)
    model = make_joint(2, normalize=True, verbose=1)
    model.set_logger(Logger(None, [kept]))
    model.learn(10 * N_STEPS * N_ENVS, callback=watch, log_interval=1)
    outcome["stopped"] = {"calls": watch.n_calls, "dumps": len(kept.dumps), "steps": model.num_timesteps}

    model = make_model(sb3_elmur.RecurrentPPO, random_envs(2, action_space=ACTION_SPACES[1]))
    model.learn(128, callback=ActionNoiseDecay(final_std=0.1))
    outcome["noise"] = {"parameters": parameters(model), "log_std": model.policy.log_std.detach().numpy()}

    model = make_joint(2, seed=10 * rank)
    if rank == 0:  # as if loaded
        model.num_timesteps, model._n_updates, model.step_size = 96, 4, 0.5
    model.learn(N_STEPS * N_ENVS if rank == 0 else 1, reset_num_timesteps=False)
    progress = {"steps": model.num_timesteps, "updates": model._n_updates}
    outcome["goes on as the first"] = progress | {"parameters": parameters(model)}

    try:
        make_joint(2 + rank).learn(1)
    except ValueError as error:
        outcome["other numbers of environments"] = str(error)
    return outcome


def lose_the_second(rank: int) -> str:
    """The second process ends while both train; what the first one then says."""
    env = DummyVecEnv([lambda: (Dying if rank else gym.Wrapper)(OwnRandomEnv(FLAT, spaces.Discrete(3)))])
    try:
        make_model(sb3_elmur.RecurrentPPO, env).learn(64)
    except LostProcessError as error:
        return str(error)
    return ""


def train_in_two(folder: Path) -> dict[str, Any]:
    """All that two processes try, so that they are started once."""
    rank = current_group().rank
    outcome: dict[str, Any] = {name: learn(N_ENVS // 2, **scenario) for name, scenario in EXACT.items()} | traps(rank)
    th.save(outcome, folder / f"{rank}.pt")
    return outcome | {"lost": lose_the_second(rank)}


def random_configuration(number: int, rank: int) -> dict[str, Any]:
    """A model with random settings, and on every rank episodes of another length."""
    draw = np.random.default_rng(number)
    common = {
        "observation_space": [FLAT, DICT][draw.integers(2)],
        "normalize": bool(draw.integers(2)),
        "n_steps": int(draw.integers(2, 30)),
        "batch_size": [None, int(draw.integers(1, 60))][draw.integers(2)],
        "n_epochs": int(draw.integers(1, 4)),
        "bptt_segments": int(draw.integers(1, 4)),
        "learning_rate": float(10 ** draw.uniform(-4, -1)),
        "target_kl": [None, float(10 ** draw.uniform(-5, -1))][draw.integers(2)],
        "trust_region": [None, float(10 ** draw.uniform(-4, 0))][draw.integers(2)],
        "scale_rewards": bool(draw.integers(2)),
        "averaging": [0.0, 0.2][draw.integers(2)],
        "policy_kwargs": [{}, SEPARATE, MOE][draw.integers(3)] | {"segment_length": int(draw.integers(1, 6))},
    }
    lengths = draw.uniform(1, 40, size=2)
    return common | {"mean_length": float(lengths[rank % 2])}


def train_randomly(folder: Path, numbers: Iterable[int] = range(100), limit: int = 120) -> list[th.Tensor]:
    """Train with the random settings of these numbers, each within ``limit`` seconds, or the process ends."""
    rank, results = current_group().rank, []
    for number in numbers:
        signal.alarm(limit)
        scenario = random_configuration(number, rank)
        n_envs = 1 + number % 3
        results.append(parameters(make_joint(n_envs, **scenario).learn(2 * scenario["n_steps"] * 2 * n_envs)))
    signal.alarm(0)
    return results


def in_processes(size: int, work: Callable[[Path], Any], folder: Path, limit: float = 600) -> list[Any]:
    """What ``work`` returns in each of ``size`` processes that have joined a group."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_join, args=(rank, size, port, work, folder)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(limit)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * size
    return [th.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _join(rank: int, size: int, port: int, work: Callable[[Path], Any], folder: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    th.set_num_threads(1)  # processes share the cores
    join_group("cpu")
    th.save(work(folder), folder / f"{rank}.pt")
    dist.destroy_process_group()

"""
Environment steps per second of whole PPO training, ELMUR beside other policies with memory at equal parameter counts.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/training_speed.py

writes ``benchmarks/results/training_speed.json``. PPO of skrl and torchrl takes part if they are installed (``pip install
skrl==2.1.1 torchrl==0.14.1``). One measurement is one rollout and its update; contestants take turns, so that they share
whatever else the machine does. The warm-up rollout has one epoch. Two contestants have the defaults of their classes, among
them the epochs and the size of minibatches; the others have these in common.

The learning rate is so small that policies stay as they were initialised: the work is that of training, and every
contestant meets episodes of the same length however many rollouts it has done.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib
import torch as th
from common import RESULTS, markdown_table, provenance, write_json
from contestants import (
    LEARNING_RATE,
    N_STEPS,
    PPO_ARGUMENTS,
    Contestant,
    Measurement,
    Stopwatch,
    count_parameters,
    synchronizer,
)
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from skrl_ppo import SkrlContestant, skrl_env, skrl_gru, skrl_roles
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack
from torchrl_ppo import TorchrlContestant, torchrl_gru

import sb3_elmur
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.training.compiling import LONG, compile_rollouts

BATCH_SIZE = {8: 256, 64: 2048, 512: 16384}  # by number of environments
FRAMES = 4
TOLERANCE = 0.05  # of the parameter count
ELMUR: dict[str, Any] = dict(n_layers=2, d_model=64, n_heads=4, segment_length=16, memory_size=4, blend="gated")
ELMUR_VARIANTS: dict[str, dict[str, Any]] = {
    "elmur": dict(bptt_segments=1),
    "elmur-compiled": dict(bptt_segments=1, policy_kwargs={"compile": True}),
    "elmur-8": dict(bptt_segments=8),
}
DEFAULTS = ("elmur-defaults", "lstm-defaults")


class Sb3Contestant:
    """
    An on-policy algorithm of Stable-Baselines3.

    :param model: algorithm that has not been trained
    """

    def __init__(self, model: OnPolicyAlgorithm) -> None:
        self.model = model
        self.parameters = count_parameters(model.policy)
        self._n_epochs = model.n_epochs  # type: ignore[attr-defined]
        self._synchronize = synchronizer(str(model.device))
        self._rollout = Stopwatch(model, "collect_rollouts", self._synchronize)
        self._update = Stopwatch(model, "train", self._synchronize)

    def train(self, n_epochs: int | None = None) -> Measurement:
        """Collect one rollout and update on it, in as many epochs as it has, or in others."""
        th.distributions.Distribution.set_default_validate_args(True)  # PyTorch's default, which importing skrl changes
        self.model.n_epochs = n_epochs or self._n_epochs  # type: ignore[attr-defined]
        start = time.perf_counter()
        self.model.learn(N_STEPS * self.model.n_envs, reset_num_timesteps=False)
        total = time.perf_counter() - start
        episodes = int(self.model.rollout_buffer.episode_starts.sum())
        return Measurement(total, self._rollout.seconds, self._update.seconds, episodes)


def fit_width(count: Callable[[int], int], target: int) -> int:
    """
    Return the multiple of 4 that, as a width, comes closest to a number of parameters.

    :param count: number of parameters of a width; increases with it
    :param target: number of parameters to match
    :raises ValueError: if the closest is further away than :data:`TOLERANCE`
    """
    low, high = 1, 512  # in units of 4
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if count(4 * middle) < target else (low, middle)
    width = min((4 * low, max(4 * low - 4, 4)), key=lambda candidate: abs(count(candidate) - target))
    if abs(count(width) - target) > TOLERANCE * target:
        raise ValueError(f"No width has {target} parameters. The closest, {width}, has {count(width)}.")
    return width


def policy_parameters(policy: type[ActorCriticPolicy], venv: VecEnv, **policy_kwargs: Any) -> int:
    """Return the number of trainable parameters of a policy of Stable-Baselines3 for ``venv``."""
    return count_parameters(policy(venv.observation_space, venv.action_space, lambda _: 0.0, **policy_kwargs))


def recurrent_model(name: str, venv: VecEnv, elmur_kwargs: dict[str, Any], **arguments: Any) -> OnPolicyAlgorithm:
    """
    Return one of the recurrent algorithms that are used like sb3-contrib's.

    :param name: one of :data:`ELMUR_VARIANTS`, "elmur-host", "lstm-two" or "lstm-shared"
    :param venv: environments
    :param elmur_kwargs: ``policy_kwargs`` of ELMUR; LSTMs get as many parameters
    :param arguments: further arguments of the algorithm
    """
    if name in ELMUR_VARIANTS:
        variant = ELMUR_VARIANTS[name]
        variant = variant | {"policy_kwargs": elmur_kwargs | variant.get("policy_kwargs", {})}
        return sb3_elmur.RecurrentPPO("ElmurPolicy", venv, **variant, **arguments)
    if name == "elmur-host":
        kwargs = elmur_kwargs | {"detach_memory": True}
        return sb3_contrib.RecurrentPPO("ElmurPolicy", venv, policy_kwargs=kwargs, **arguments)
    kwargs = {"lstm-two": {}, "lstm-shared": dict(shared_lstm=True, enable_critic_lstm=False)}[name]
    return lstm_model(venv, policy_parameters(sb3_elmur.ElmurPolicy, venv, **elmur_kwargs), kwargs, **arguments)


def lstm_model(venv: VecEnv, parameters: int, policy_kwargs: dict[str, Any], **arguments: Any) -> OnPolicyAlgorithm:
    """Return sb3-contrib's algorithm with its own policy, as wide as it takes to have so many parameters."""
    width = fit_width(
        lambda width: policy_parameters(RecurrentActorCriticPolicy, venv, lstm_hidden_size=width, **policy_kwargs), parameters
    )
    policy_kwargs = policy_kwargs | {"lstm_hidden_size": width}
    return sb3_contrib.RecurrentPPO("MlpLstmPolicy", venv, policy_kwargs=policy_kwargs, **arguments)


def recurrent(name: str, venv: VecEnv, batch_size: int, device: str, seed: int) -> Contestant:
    """Return a contestant for :func:`recurrent_model`."""
    arguments = PPO_ARGUMENTS | dict(batch_size=batch_size, device=device, seed=seed)
    return Sb3Contestant(recurrent_model(name, venv, ELMUR, **arguments))


def defaults(name: str, venv: VecEnv, batch_size: int, device: str, seed: int) -> Contestant:
    """Return one of :data:`DEFAULTS` with all defaults of its class but the learning rate."""
    arguments: dict[str, Any] = dict(learning_rate=LEARNING_RATE, device=device, seed=seed)
    elmur = sb3_elmur.RecurrentPPO("ElmurPolicy", venv, **arguments)
    assert elmur.n_steps == N_STEPS
    if name == "elmur-defaults":
        compile_rollouts(elmur.policy, venv.num_envs, LONG * venv.num_envs, print)
        return Sb3Contestant(elmur)
    return Sb3Contestant(lstm_model(venv, count_parameters(elmur.policy), {}, **arguments))


def frame_stack(venv: VecEnv, batch_size: int, device: str, seed: int) -> Contestant:
    """Return PPO on the last frames, with two networks of two layers each."""
    target = policy_parameters(sb3_elmur.ElmurPolicy, venv, **ELMUR)
    venv = VecFrameStack(venv, FRAMES)
    width = fit_width(lambda width: policy_parameters(ActorCriticPolicy, venv, net_arch=[width, width]), target)
    arguments = PPO_ARGUMENTS | dict(batch_size=batch_size, device=device, seed=seed)
    return Sb3Contestant(PPO("MlpPolicy", venv, policy_kwargs=dict(net_arch=[width, width]), **arguments))


def skrl_ppo(sequence_length: int, shared: bool, venv: VecEnv, batch_size: int, device: str, seed: int) -> Contestant:
    """Return skrl's PPO_RNN."""
    th.manual_seed(seed)
    env = skrl_env(venv, device)
    roles = skrl_roles(shared)
    target = policy_parameters(sb3_elmur.ElmurPolicy, venv, **ELMUR)
    width = fit_width(lambda width: sum(count_parameters(skrl_gru(env, width, 2, role, device)) for role in roles), target)
    return SkrlContestant(venv, width, sequence_length, shared, batch_size, device)


def torchrl_ppo(venv: VecEnv, batch_size: int, device: str, seed: int) -> Contestant:
    """Return torchrl's PPO."""
    th.manual_seed(seed)
    target = policy_parameters(sb3_elmur.ElmurPolicy, venv, **ELMUR)
    width = fit_width(lambda width: count_parameters(torchrl_gru(venv, width, device)), target)
    return TorchrlContestant(venv, width, batch_size, device)


CONTESTANTS: dict[str, Callable[[VecEnv, int, str, int], Contestant]] = {
    **{name: partial(recurrent, name) for name in ELMUR_VARIANTS},
    **{name: partial(defaults, name) for name in DEFAULTS},
    "elmur-host": partial(recurrent, "elmur-host"),
    "lstm-two": partial(recurrent, "lstm-two"),
    "lstm-shared": partial(recurrent, "lstm-shared"),
    "skrl-gru-16": partial(skrl_ppo, 16, True),
    "skrl-gru-32": partial(skrl_ppo, 32, True),
    "skrl-two-gru-32": partial(skrl_ppo, 32, False),
    "torchrl-gru": torchrl_ppo,
    "frame-stack": frame_stack,
}
DESCRIPTIONS = {
    "elmur": "sb3_elmur.RecurrentPPO, ElmurPolicy, bptt_segments=1",
    "elmur-compiled": "the same, compiled",
    "elmur-8": "sb3_elmur.RecurrentPPO, ElmurPolicy, bptt_segments=8 (default)",
    "elmur-defaults": "sb3_elmur.RecurrentPPO, ElmurPolicy, all defaults, steps of the rollout compiled as in long training",
    "lstm-defaults": "sb3_contrib.RecurrentPPO, MlpLstmPolicy, all defaults but the width of the LSTMs",
    "elmur-host": "sb3_contrib.RecurrentPPO, ElmurPolicy, detach_memory=True",
    "lstm-two": "sb3_contrib.RecurrentPPO, MlpLstmPolicy, an LSTM each for actor and critic (default)",
    "lstm-shared": "sb3_contrib.RecurrentPPO, MlpLstmPolicy, shared_lstm=True, enable_critic_lstm=False",
    "skrl-gru-16": "skrl PPO_RNN, one GRU for actor and critic, sequences of 16",
    "skrl-gru-32": "skrl PPO_RNN, one GRU for actor and critic, sequences of 32",
    "skrl-two-gru-32": "skrl PPO_RNN, a GRU each for actor and critic as in skrl's examples, sequences of 32",
    "torchrl-gru": "torchrl ClipPPOLoss, one GRU for actor and critic",
    "frame-stack": f"stable_baselines3.PPO, MlpPolicy on {FRAMES} stacked frames",
}


def cartpole(endless: bool) -> gym.Env:
    """
    Return CartPole without velocities.

    :param endless: let every episode run 500 steps, whatever the pole does
    """
    env = gym.make("CartPole-v1")
    low, high = env.observation_space.low[[0, 2]], env.observation_space.high[[0, 2]]  # type: ignore[attr-defined]
    if endless:
        env.unwrapped.x_threshold = env.unwrapped.theta_threshold_radians = math.inf  # type: ignore[attr-defined]
    return TransformObservation(env, lambda obs: np.clip(obs[[0, 2]], low, high), spaces.Box(low, high))


def cartpoles(n_envs: int, long: bool) -> VecEnv:
    """Return CartPole without velocities, ``n_envs`` times."""
    return DummyVecEnv([partial(cartpole, endless=long)] * n_envs)


def tmazes(n_envs: int, long: bool) -> VecEnv:
    """Return T-Mazes of 1,000 steps, or of at most 30."""
    return TMazeVecEnv(n_envs, length=1000) if long else TMazeVecEnv(n_envs, length=30, corridor_length=(1, 28))


ENVIRONMENTS: dict[str, Callable[[int, bool], VecEnv]] = {"CartPole": cartpoles, "T-Maze": tmazes}


def spread(values: list[float]) -> dict[str, int]:
    """Return median, minimum and maximum, rounded."""
    return {"median": round(statistics.median(values)), "min": round(min(values)), "max": round(max(values))}


def measure(
    names: list[str], make_venv: Callable[[int, bool], VecEnv], n_envs: int, long: bool, args: argparse.Namespace
) -> dict[str, Any]:
    """
    Let contestants take turns on one environment.

    :param names: contestants
    :param make_venv: from the number of environments, and whether episodes are long
    :param n_envs: number of environments
    :param long: whether episodes are long
    :param args: command line
    :return: results of each contestant
    """
    runners = {}
    for name in names:
        venv = make_venv(n_envs, long)
        venv.seed(args.seed)
        runners[name] = CONTESTANTS[name](venv, BATCH_SIZE[n_envs], args.device, args.seed)
        runners[name].train(n_epochs=1)
    measurements: dict[str, list[Measurement]] = {name: [] for name in names}
    for turn in range(args.rollouts):
        for name in names:
            if turn == 0 or sum(m.total for m in measurements[name]) * (turn + 1) / turn < args.seconds:
                measurements[name].append(runners[name].train())
    steps = N_STEPS * n_envs
    return {
        name: {
            "parameters": runners[name].parameters,
            "rollouts": len(done),
            "steps_per_second": spread([steps / m.total for m in done]),
            "rollout_steps_per_second": spread([steps / m.rollout for m in done]),
            "update_steps_per_second": spread([steps / m.update for m in done]),
            "steps_per_episode": round(steps * len(done) / episodes) if (episodes := sum(m.episodes for m in done)) else None,
        }
        for name, done in measurements.items()
    }


def table(cell: dict[str, Any]) -> str:
    """Return a cell's results as Markdown."""
    header = ["contestant", "parameters", "steps/s", "min to max", "rollout alone", "update alone", "rollouts", "relative"]
    header.append("steps per episode")
    reference = next(iter(cell.values()))["steps_per_second"]["median"]
    rows = []
    for name, result in cell.items():
        speed = result["steps_per_second"]
        parts = (result[f"{part}_steps_per_second"]["median"] for part in ("rollout", "update"))
        extremes = f"{speed['min']:,} to {speed['max']:,}"
        relative = f"{speed['median'] / reference:.2f}"
        rows.append(
            [
                name,
                result["parameters"],
                speed["median"],
                extremes,
                *parts,
                result["rollouts"],
                relative,
                result["steps_per_episode"],
            ]
        )
    return markdown_table(header, rows)


def main() -> None:
    """Measure every cell, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--environments", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS), metavar="NAME")
    parser.add_argument("--n-envs", nargs="+", type=int, choices=BATCH_SIZE, default=[8, 64], metavar="N")
    parser.add_argument("--episodes", nargs="+", choices=("short", "long"), default=["short", "long"], metavar="LENGTH")
    parser.add_argument("--rollouts", type=int, default=5, help="timed rollouts of each contestant in each cell")
    parser.add_argument("--seconds", type=float, default=80.0, help="about as much timed training of each in each cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "training_speed.json")
    args = parser.parse_args()
    th.set_num_threads(1)

    start = time.perf_counter()
    cells = []
    for n_envs in args.n_envs:
        for long in [length == "long" for length in args.episodes]:
            for environment in args.environments:
                results = measure(args.contestants, ENVIRONMENTS[environment], n_envs, long, args)
                cells.append(dict(environment=environment, n_envs=n_envs, long_episodes=long, results=results))
                print(f"\n{environment}, {n_envs} environments, {'long' if long else 'short'} episodes\n\n{table(results)}")
    report = {
        "unit": "environment steps per second: median, minimum and maximum over the timed rollouts",
        **provenance(args.seed, args.device),
        "seconds": round(time.perf_counter() - start),
        "settings": PPO_ARGUMENTS | dict(batch_size=BATCH_SIZE, elmur=ELMUR, rollouts=args.rollouts),
        "contestants": {name: DESCRIPTIONS[name] for name in args.contestants},
        "results": cells,
    }
    write_json(args.output, report)


if __name__ == "__main__":
    main()

"""
Environment steps per second of whole PPO training, ELMUR beside other policies with memory at equal parameter counts.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/training_speed.py

writes ``benchmarks/results/training_speed.json``. skrl's PPO_RNN takes part if it is installed (``pip install skrl==2.1.1``).
One measurement is one rollout and its update; contestants take turns, so that they share whatever else the machine does. The
warm-up rollout has one epoch. Two contestants have the defaults of their classes, among them the epochs and the size of
minibatches; the others have these in common.

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
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import sb3_contrib
import torch as th
from common import RESULTS, markdown_table, provenance, write_json
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from skrl_gru import import_skrl, skrl_env, skrl_gru, skrl_roles
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack
from torch import nn

import sb3_elmur
from sb3_elmur.compiling import LONG, compile_rollouts
from sb3_elmur.envs import TMazeVecEnv

N_STEPS = 128
N_EPOCHS = 10
BATCH_SIZE = {8: 256, 64: 2048, 512: 16384}  # by number of environments
LEARNING_RATE = 1e-9
FRAMES = 4
TOLERANCE = 0.05  # of the parameter count
ELMUR: dict[str, Any] = dict(n_layers=2, d_model=64, n_heads=4, segment_length=16, memory_size=4, blend="gated")
ELMUR_VARIANTS: dict[str, dict[str, Any]] = {
    "elmur": dict(bptt_segments=1),
    "elmur-compiled": dict(bptt_segments=1, policy_kwargs={"compile": True}),
    "elmur-8": dict(bptt_segments=8),
}
DEFAULTS = ("elmur-defaults", "lstm-defaults")
PPO_ARGUMENTS: dict[str, Any] = dict(
    n_steps=N_STEPS,
    n_epochs=N_EPOCHS,
    learning_rate=LEARNING_RATE,
    gamma=0.99,
    gae_lambda=0.95,
    clip_range=0.2,
    ent_coef=0.0,
    vf_coef=0.5,
    max_grad_norm=0.5,
)


class Measurement(NamedTuple):
    """Seconds of one rollout and its update, and how many episodes began in it."""

    total: float
    rollout: float
    update: float
    episodes: int


class Contestant(Protocol):
    """Something that trains."""

    parameters: int

    def train(self, n_epochs: int | None = None) -> Measurement:
        """Collect one rollout and update on it, in as many epochs as it has, or in others."""


class Stopwatch:
    """
    Wraps a method and keeps the seconds of its last call.

    :param owner: object whose method is replaced
    :param name: name of the method
    :param synchronize: waits until the device is done
    """

    def __init__(self, owner: object, name: str, synchronize: Callable[[], None]) -> None:
        self.seconds = 0.0
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = method(*args, **kwargs)
            synchronize()
            self.seconds = time.perf_counter() - start
            return result

        setattr(owner, name, timed)


def synchronizer(device: str) -> Callable[[], None]:
    """Return a function that waits until ``device`` is done."""
    return partial(th.cuda.synchronize, device) if th.device(device).type == "cuda" else lambda: None


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


class SkrlContestant:
    """
    skrl's PPO_RNN with a GRU, driven by skrl's SequentialTrainer on the environments of the other contestants.

    :param venv: environments
    :param width: width of the GRU
    :param sequence_length: steps through which gradients flow
    :param shared: one GRU, run once for actor and critic, instead of one for each
    :param batch_size: steps per minibatch
    :param device: torch device
    """

    def __init__(self, venv: VecEnv, width: int, sequence_length: int, shared: bool, batch_size: int, device: str) -> None:
        skrl = import_skrl()
        env = skrl_env(venv, device)
        models = [skrl_gru(env, width, sequence_length, roles, device) for roles in skrl_roles(shared)]
        self.parameters = sum(count_parameters(model) for model in models)
        self._memory = skrl.memories.torch.RandomMemory(memory_size=N_STEPS, num_envs=venv.num_envs, device=device)
        self._agent = skrl.agents.torch.ppo.PPO_RNN(
            models={"policy": models[0], "value": models[-1]},
            memory=self._memory,
            observation_space=env.observation_space,
            action_space=env.action_space,
            device=device,
            cfg=dict(
                rollouts=N_STEPS,
                mini_batches=N_STEPS * venv.num_envs // batch_size,
                learning_rate=LEARNING_RATE,
                discount_factor=PPO_ARGUMENTS["gamma"],
                gae_lambda=PPO_ARGUMENTS["gae_lambda"],
                ratio_clip=PPO_ARGUMENTS["clip_range"],
                entropy_loss_scale=PPO_ARGUMENTS["ent_coef"],
                value_loss_scale=PPO_ARGUMENTS["vf_coef"],
                grad_norm_clip=PPO_ARGUMENTS["max_grad_norm"],
                value_clip=0.0,
                time_limit_bootstrap=True,
                experiment=dict(write_interval=0, checkpoint_interval=0),
            ),
        )
        self._trainer = skrl.trainers.torch.SequentialTrainer(
            env=env,
            agents=self._agent,
            cfg=dict(timesteps=N_STEPS, headless=True, disable_progressbar=True, close_environment_at_exit=False),
        )
        self._synchronize = synchronizer(device)
        self._update = Stopwatch(self._agent, "update", self._synchronize)

    def train(self, n_epochs: int | None = None) -> Measurement:
        """Collect one rollout and update on it, in as many epochs as it has, or in others."""
        th.distributions.Distribution.set_default_validate_args(False)  # as skrl does when it is imported
        self._agent.cfg.learning_epochs = n_epochs or N_EPOCHS
        start = time.perf_counter()
        self._trainer.train()
        total = time.perf_counter() - start
        ends = self._memory.get_tensor_by_name("terminated") | self._memory.get_tensor_by_name("truncated")
        return Measurement(total, total - self._update.seconds, self._update.seconds, int(ends.sum()))


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


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


CONTESTANTS: dict[str, Callable[[VecEnv, int, str, int], Contestant]] = {
    **{name: partial(recurrent, name) for name in ELMUR_VARIANTS},
    **{name: partial(defaults, name) for name in DEFAULTS},
    "elmur-host": partial(recurrent, "elmur-host"),
    "lstm-two": partial(recurrent, "lstm-two"),
    "lstm-shared": partial(recurrent, "lstm-shared"),
    "skrl-gru-16": partial(skrl_ppo, 16, True),
    "skrl-gru-32": partial(skrl_ppo, 32, True),
    "skrl-two-gru-32": partial(skrl_ppo, 32, False),
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

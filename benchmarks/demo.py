"""
The main job: ELMUR learns a memory task online, beside PPO without memory. ``make demo`` runs it.

    python benchmarks/demo.py [--seed 0] [--output demo]

Both agents train on T-Maze corridors of random length with the settings of ``zoo_configs/ppo_elmur.yml``, for the same
number of steps, each on one core, and are evaluated on full-length corridors and on longer ones than they were trained on.
Writes ``summary.json``, ``tmaze.png``, the trained models and their evaluations to the output folder.
"""

import argparse
import multiprocessing
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch as th
from common import RECIPE, provenance, write_file, write_json
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecMonitor

from sb3_elmur import ElmurPolicy, RecurrentPPO
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.evaluation import Corridors, run_episodes
from sb3_elmur.settings import read_settings, schedule

ENV_ID = "TMazePassive30-v0"
LENGTH = 30
LENGTHS = (9, 30, 100, 300, 1000, 3000, 10_000)
EPISODES = 100
EVALUATIONS = 20
CHANCE = 0.5
AGENTS = {"ELMUR": "elmur", "PPO without memory": "ppo"}


def demo_settings() -> dict[str, Any]:
    """The hyper-parameters of ``ENV_ID``, in the zoo's grammar, and the schedule resolved."""
    settings = RECIPE | read_settings("ppo_elmur.yml", ENV_ID)
    return settings | {"learning_rate": schedule(settings["learning_rate"])}


def train(agent: str, seed: int, output: Path, progress_bar: bool) -> float:
    """
    Train one agent, with its learning curve, and save it.

    :param agent: Key of ``AGENTS``.
    :param seed: Seed of agent and environments.
    :param output: Where ``<agent>/model.zip`` and ``<agent>/evaluations.npz`` go.
    :param progress_bar: Whether to show one.
    :return: Seconds.
    """
    th.set_num_threads(1)
    if not progress_bar:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends this one
    settings = demo_settings()
    n_envs, steps = settings.pop("n_envs"), settings.pop("n_timesteps")
    env = VecMonitor(TMazeVecEnv(n_envs, length=LENGTH, seed=seed, **settings.pop("env_kwargs")))
    policy, policy_kwargs = settings.pop("policy").split(".")[-1], settings.pop("policy_kwargs")
    model: BaseAlgorithm
    if agent == "ELMUR":
        model = RecurrentPPO(policy, env, policy_kwargs=policy_kwargs, seed=seed, device="cpu", **settings)
    else:
        model = PPO("MlpPolicy", env, seed=seed, device="cpu", **settings)
    name = AGENTS[agent]
    evaluation = EvalCallback(
        VecMonitor(TMazeVecEnv(EPISODES, length=LENGTH, seed=1000 + seed)),
        n_eval_episodes=EPISODES,
        eval_freq=steps // n_envs // EVALUATIONS,
        log_path=str(output / name),
        verbose=0,
    )
    start = time.perf_counter()
    model.learn(steps, callback=evaluation, progress_bar=progress_bar)
    write_file(output / name / "model.zip", model.save)
    return time.perf_counter() - start


def success_rate(model: BaseAlgorithm, length: int, seed: int) -> float:
    """
    Share of ``EPISODES`` corridors, one episode each, that end at the goal, for a model without memory.

    :param model: What acts.
    :param length: Step limit T; the corridor has T - 2 cells.
    :param seed: Seed of the environments.
    """
    episodes = run_episodes(model.policy, TMazeVecEnv(EPISODES, length=length), seed)
    return float(np.mean([episode["is_success"] for episode in episodes]))


def corridor_success(policy: ElmurPolicy, lengths: Sequence[int], seed: int) -> dict[int, float]:
    """
    Share of ``EPISODES`` corridors of each length that end at the goal.

    :param policy: What acts.
    :param lengths: Step limits T.
    :param seed: Seed of the environments.
    """
    corridors = Corridors(policy, lengths, EPISODES, seed)
    return {length: float(success.mean()) for length, success in corridors.finish().items()}


def evaluate(output: Path, seed: int) -> dict[str, dict[int, float]]:
    """Success of both saved agents at every length of ``LENGTHS``, with other seeds than those of training."""
    elmur = RecurrentPPO.load(output / AGENTS["ELMUR"] / "model.zip", device="cpu")
    ppo = PPO.load(output / AGENTS["PPO without memory"] / "model.zip", device="cpu")
    return {
        "ELMUR": corridor_success(elmur.policy, LENGTHS, 2000 + seed),
        "PPO without memory": {length: success_rate(ppo, length, 2000 + seed) for length in LENGTHS},
    }


def draw(output: Path, rates: dict[str, dict[int, float]], segment_length: int) -> None:
    """Learning curves, and success against corridor length, to ``tmaze.png``."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for agent, colour in zip(AGENTS, ("tab:blue", "tab:orange"), strict=True):
        curve = np.load(output / AGENTS[agent] / "evaluations.npz", allow_pickle=False)
        left.plot(curve["timesteps"], curve["successes"].mean(axis=1), "o-", ms=3, color=colour, label=agent)
        right.plot(list(rates[agent]), list(rates[agent].values()), "o-", ms=4, color=colour, label=agent)
    for axes in (left, right):
        axes.axhline(CHANCE, color="grey", ls="--", lw=1, label="chance")
        axes.set(ylim=(-0.03, 1.03), ylabel=f"success rate ({EPISODES} episodes)")
        axes.grid(alpha=0.3)
    right.axvline(LENGTH, color="grey", lw=1, ls=":")
    right.annotate("trained up to here", (LENGTH, 0.03), xytext=(4, 0), textcoords="offset points", color="grey")
    left.set(xlabel="environment steps of training", title=f"T-Maze, {LENGTH} steps = {LENGTH // segment_length} segments")
    right.set(xlabel="length of the corridor (steps)", xscale="log", title="Longer corridors than trained on")
    left.legend(loc="lower right")
    write_file(output / "tmaze.png", partial(figure.savefig, format="png", dpi=130))


def main() -> None:
    """Train both agents side by side, evaluate them, and write table, picture and models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("demo"))
    arguments = parser.parse_args()
    seed, output = arguments.seed, arguments.output
    output.mkdir(parents=True, exist_ok=True)

    settings = demo_settings()
    segment_length = settings["policy_kwargs"]["segment_length"]
    print(f"Training ELMUR on T-Maze ({LENGTH} steps, {LENGTH // segment_length} segments), and PPO without memory beside it.")
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        baseline = pool.apply_async(train, ("PPO without memory", seed, output, False))
        seconds = {"ELMUR": train("ELMUR", seed, output, progress_bar=True), "PPO without memory": baseline.get()}
    rates = evaluate(output, seed)
    draw(output, rates, segment_length)

    summary = {
        "environment": ENV_ID,
        "trained_length": LENGTH,
        "segment_length": segment_length,
        "segments_per_episode": LENGTH // segment_length,
        "success_rate": rates["ELMUR"][LENGTH],
        "baselines": {"PPO without memory": rates["PPO without memory"][LENGTH], "chance": CHANCE},
        "success_by_length": rates,
        "evaluation_episodes": EPISODES,
        "environment_steps": settings["n_timesteps"],
        "seconds_training": {agent: round(value, 1) for agent, value in seconds.items()},
        "seconds": round(time.perf_counter() - start, 1),
        **provenance(seed),
    }
    write_json(output / "summary.json", summary)

    print(f"\nSuccess rate over {EPISODES} corridors, by length (trained up to {LENGTH}):\n")
    print(f"{'':20}" + "".join(f"{length:>7}" for length in LENGTHS))
    for agent, rate in rates.items():
        print(f"{agent:20}" + "".join(f"{value:7.2f}" for value in rate.values()))
    print(f"{'chance':20}" + f"{CHANCE:7.2f}" * len(LENGTHS))
    print(f"\n{summary['seconds']:.0f} s. Picture: {output / 'tmaze.png'}; numbers: {output / 'summary.json'}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. What was finished is in the output folder; run the command again to start over.")

"""
Returns and speed of the scripted experts on POPGym's 48 tasks.

    python benchmarks/popgym_experts.py --episodes 100

writes ``benchmarks/results/popgym_experts.json`` and prints it as a Markdown table. Episode i of a task is seeded with i,
which for the Labyrinths also seeds the global generators that they draw from. The speed of an expert counts neither the
environment's steps nor the expert's construction.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import popgym.envs
from common import RESULTS, markdown_table, provenance, write_json

from sb3_elmur.envs.popgym import TASKS
from sb3_elmur.envs.popgym.experts import make_expert


def evaluate(task: str, n_episodes: int) -> dict[str, Any]:
    """
    Play seeded episodes of a task.

    :param task: name of POPGym's class
    :param n_episodes: number of episodes
    :return: mean and standard deviation of the returns, mean length, and steps per second
    """
    env, expert = getattr(popgym.envs, task)(), make_expert(task)
    returns, n_steps, seconds = [], 0, 0.0
    for seed in range(n_episodes):
        observation, _ = env.reset(seed=seed)
        action, total, done = None, 0.0, False
        while not done:
            start = time.perf_counter()
            expert.observe(observation, action)
            action = expert.act()
            seconds += time.perf_counter() - start
            observation, reward, terminated, truncated, _ = env.step(action)
            total += reward
            done = terminated or truncated
            n_steps += 1
        returns.append(float(total))
    return {
        "mean": round(statistics.mean(returns), 4),
        "std": round(statistics.pstdev(returns), 4),
        "steps": round(n_steps / n_episodes, 1),
        "steps_per_second": round(n_steps / seconds),
    }


def main() -> None:
    """Evaluate all experts, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=20, help="episodes of each task")
    parser.add_argument("--out", type=Path, default=RESULTS / "popgym_experts.json")
    args = parser.parse_args()

    warnings.simplefilter("ignore", DeprecationWarning)
    results = {task: evaluate(task, args.episodes) for task in TASKS}
    total = round(sum(result["mean"] for result in results.values()), 2)
    rows = [
        (task, f"{result['mean']:.3f} ± {result['std']:.3f}", f"{result['steps']:.0f}", result["steps_per_second"])
        for task, result in results.items()
    ]
    print(
        markdown_table(
            ("task", "return", "steps", "expert steps/s"), [*rows, ("sum over the 48 tasks", f"{total:.2f}", "", "")]
        )
    )

    report = {
        **provenance(seed=0),
        "settings": {"episodes": args.episodes},
        "sum": total,
        "results": results,
    }
    report["versions"] |= {package: version(package) for package in ("popgym", "mazelib")}
    write_json(args.out, report)


if __name__ == "__main__":
    main()

"""
Which blend of a slot's old and new content is best: fixed, learned or gated, by behaviour cloning and online.

    python benchmarks/blending.py                    # every run that has no result yet, and the tables
    python benchmarks/blending.py --report           # tables and figure of what is there

Tasks, training and evaluation are those of ``capacity.py``, and so is the folder of results. The lambda of the fixed blend is
chosen for each maze by a sweep on the seeds of ``SWEEP_SEEDS``, which serve for nothing else; it clones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from capacity import CELLS, FIGURE, LENGTHS, Results, Run, interval, perform_all, results, seeds, shares
from common import markdown_table, mean_and_worst, write_file

from sb3_elmur.comparison.statistics import interquartile_means

MAZES = (("told", 2, 4), ("told", 4, 8), ("endless", 1, 10), ("runes", 1, 2))  # slots M, k
TASKS = (*MAZES, ("told-online", 4, 4))
LAMBDAS = (0.0, 0.1, 0.5, 0.9, 1.0)
SWEEP_SEEDS, N_SEEDS = (100,), 5
MEMORIES = ("fixed", "learned", "gated", "gated_recurrent", *CELLS)
LENGTH = LENGTHS[0]  # at which memories are compared


def sweep() -> list[Run]:
    """All runs that choose lambda."""
    return [Run(maze, f"fixed={weight:g}", m, k, seed) for seed in SWEEP_SEEDS for maze, m, k in MAZES for weight in LAMBDAS]


def best_lambda(found: Results, maze: str, m: int, k: int) -> float | None:
    """
    The lambda with which most turns are right after 1,000 steps, else at the trained length, in the mean of the sweep.

    ``None`` while the sweep of the maze is not complete.
    """
    scores = {}
    for weight in LAMBDAS:
        both = successes(found, maze, f"fixed={weight:g}", m, k, SWEEP_SEEDS)
        if len(both[1]) < len(SWEEP_SEEDS):
            return None
        scores[weight] = [float(np.mean(values)) if values else 0.0 for values in both]
    return max(scores, key=lambda weight: scores[weight])


def successes(
    found: Results, task: str, memory: str, m: int, k: int, chosen: tuple[int, ...]
) -> tuple[list[float], list[float]]:
    """By seed, the shares of right turns after 1,000 steps and at the trained length."""
    reports = [one for one in found.get((task, memory, m, k), []) if one["run"]["seed"] in chosen]
    return shares(reports, LENGTH), shares(reports, Run(task, memory, m, k, 0).env_kwargs["length"])


def study() -> list[Run]:
    """All runs that compare memories, seed by seed, once the sweep is complete."""
    found = results()
    compared = [agent for task in TASKS for agent in agents(found, *task).values()]
    return [Run(*agent, seeds(agent[0])[number]) for number in range(N_SEEDS) for agent in compared]


def agents(found: Results, task: str, m: int, k: int) -> dict[str, tuple[str, str, int, int]]:
    """What is compared in a task, by name; no fixed blend before its lambda is chosen."""
    weight = next(best_lambda(found, *maze) for maze in MAZES if (maze[0], maze[2]) == (task.partition("-")[0], k))
    names = {memory: memory for memory in MEMORIES if memory != "fixed"}
    names |= {} if weight is None else {"fixed": f"fixed={weight:g}"}
    return {memory: (task, names[memory], 0 if memory in CELLS else m, k) for memory in MEMORIES if memory in names}


def report() -> None:
    """Print the sweep and the comparison, and draw the figure."""
    found, rows = results(), []
    for maze, m, k in MAZES:
        cells = [successes(found, maze, f"fixed={weight:g}", m, k, SWEEP_SEEDS) for weight in LAMBDAS]
        rows.append([maze, k, m, *(" / ".join(mean_and_worst(values) for values in reversed(cell)) for cell in cells)])
    print(markdown_table(["maze", "k", "M", *(f"{weight:g}" for weight in LAMBDAS)], rows))
    print()
    rows = []
    scores: dict[str, list[list[float]]] = {memory: [] for memory in MEMORIES}
    for task, m, k in TASKS:
        present = agents(found, task, m, k)
        for memory in MEMORIES:
            agent = present.get(memory)
            long, short = successes(found, *agent, seeds(task)) if agent else ([], [])
            scores[memory].append(long)
            if agent is None or not short:
                continue
            parameters = found[agent][0]["parameters"]
            rows.append(
                [
                    task,
                    k,
                    agent[1],
                    agent[2] or "",
                    parameters,
                    len(long),
                    mean_and_worst(short),
                    mean_and_worst(long),
                    interval(long),
                ]
            )
    header = ["task", "k", "memory", "M", "parameters", "seeds", "trained length", f"{LENGTH:,}", f"IQM, {LENGTH:,} [95 %]"]
    print(markdown_table(header, rows))
    complete = {memory: np.array(values).T for memory, values in scores.items() if all(len(one) == N_SEEDS for one in values)}
    print()
    print(markdown_table(["memory", "IQM of all tasks [95 %]"], [[*row] for row in interquartile_means(complete).items()]))
    draw(scores, FIGURE.parent / "blending.png")


def draw(scores: dict[str, list[list[float]]], path: Path) -> None:
    """Right turns after 1,000 steps by task and memory; every seed is a dot."""
    figure, axes = plt.subplots(1, len(TASKS), figsize=(12, 2.8), layout="constrained", sharey=True)
    for column, (axis, (task, m, k)) in enumerate(zip(axes, TASKS, strict=True)):
        for place, memory in enumerate(MEMORIES):
            values = scores[memory][column]
            axis.plot([place] * len(values), values, "o", ms=4, color=f"C{place}")
            axis.plot(place, np.mean(values) if values else np.nan, "_", ms=18, color=f"C{place}")
        axis.set(
            title=f"{task}, k = {k}, M = {m}",
            xlim=(-0.5, len(MEMORIES) - 0.5),
            ylim=(-0.03, 1.03),
            xticks=range(len(MEMORIES)),
        )
        axis.set_xticklabels([memory.replace("_", "\n") for memory in MEMORIES], fontsize=7)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"right turns, {LENGTH:,} steps")
    write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def main() -> None:
    """Run, or report, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options = parser.parse_args()
    if not options.report:
        perform_all(sweep(), options.workers)
        if not all(run.path.exists() for run in sweep()):
            raise SystemExit("The sweep of lambda is not complete: a run failed.")
        perform_all(study(), options.workers)
    report()


if __name__ == "__main__":
    main()

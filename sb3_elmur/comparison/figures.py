"""Figures of a results page."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gymnasium.error import DependencyNotInstalled

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter
except ImportError as error:
    raise DependencyNotInstalled('matplotlib is missing: run `pip install "sb3-elmur[compare]"`.') from error

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.comparison.matrix import Environment
from sb3_elmur.comparison.results import Results
from sb3_elmur.comparison.statistics import Interval

ENVS_PER_ROW = 12


def draw_aggregates(estimates: Mapping[str, Interval], label: str, path: Path) -> None:
    """
    Estimates with their intervals, one under the other.

    :param estimates: By agent.
    :param label: What they are.
    :param path: The PNG file.
    """
    figure = Figure(figsize=(7, 0.9 + 0.4 * len(estimates)), layout="constrained")
    axes = figure.subplots()
    for i, interval in enumerate(estimates.values()):
        axes.barh(i, interval.high - interval.low, left=interval.low, height=0.6, color=f"C{i}", alpha=0.6)
        axes.plot([interval.value] * 2, [i - 0.3, i + 0.3], color="black", lw=1.5)
    axes.use_sticky_edges = False  # a bar that begins at the edge would look cut
    axes.autoscale()
    axes.set_yticks(range(len(estimates)), list(estimates))
    axes.invert_yaxis()
    axes.set(xlabel=label)
    axes.grid(axis="x", alpha=0.3)
    _save(figure, path)


def draw_bars(results: Results, path: Path) -> None:
    """
    The mean over seeds of each agent in each environment, every seed as a dot.

    :param results: What is there.
    :param path: The PNG file.
    """
    n_rows = math.ceil(len(results.envs) / ENVS_PER_ROW)
    figure = Figure(figsize=(13, 0.7 + 2.6 * n_rows), layout="constrained")
    rows = figure.subplots(n_rows, squeeze=False)[:, 0]
    width = 0.85 / len(results.agents)
    for row, axes in enumerate(rows):
        envs = results.envs[row * ENVS_PER_ROW : (row + 1) * ENVS_PER_ROW]
        for i, agent in enumerate(results.agents):
            for j, env in enumerate(envs):
                values = results.values(env, agent)
                if len(values):
                    x = j + (i - (len(results.agents) - 1) / 2) * width
                    axes.bar(x, values.mean(), width, color=f"C{i}")
                    axes.plot([x] * len(values), values, ".", ms=3, color="black", alpha=0.6)
        axes.set_xticks(range(len(envs)), [short_name(env) for env in envs], rotation=25, ha="right", fontsize=8)
        axes.set_xlim(-0.6, min(ENVS_PER_ROW, len(results.envs)) - 0.4)
        axes.set(ylabel=_measures(envs))
        axes.grid(axis="y", alpha=0.3)
    for i, agent in enumerate(results.agents):
        rows[0].plot([], [], "s", color=f"C{i}", label=agent)
    figure.legend(loc="outside upper center", ncols=len(results.agents), fontsize=9)
    _save(figure, path)


def draw_curves(results: Results, path: Path) -> None:
    """
    Learning curves of each environment: the mean over seeds, and every seed as a thin line.

    :param results: What is there.
    :param path: The PNG file.
    """
    n_columns = min(3, len(results.envs))
    n_rows = math.ceil(len(results.envs) / n_columns)
    figure = Figure(figsize=(4.5 * n_columns, 0.7 + 2.8 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
    for axes in panels[len(results.envs) :]:
        axes.set_axis_off()
    for axes, env in zip(panels, results.envs, strict=False):
        for i, agent in enumerate(results.agents):
            seeds = [
                ([point["steps"] for point in report["curve"]], [point[env.score.measure] for point in report["curve"]])
                for report in results.of(env, agent)
                if report["curve"]
            ]
            if seeds:
                steps = np.unique(np.concatenate([steps for steps, _ in seeds]))
                steps = steps[steps >= max(first[0] for first, _ in seeds)]
                lines = np.stack([np.interp(steps, *seed) for seed in seeds])
                axes.plot(steps, lines.T, lw=0.5, alpha=0.4, color=f"C{i}")
                axes.plot(steps, lines.mean(0), lw=1.5, color=f"C{i}")
        axes.set(title=short_name(env), xlabel="environment steps", ylabel=f"{env.score.measure} in training")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.locator_params(axis="x", nbins=6)
        axes.grid(alpha=0.3)
    for i, agent in enumerate(results.agents):
        if agent in results.learners:
            panels[0].plot([], [], color=f"C{i}", label=agent)
    figure.legend(loc="outside upper center", ncols=len(results.agents), fontsize=9)
    _save(figure, path)


def short_name(env: Environment) -> str:
    """The id without what all ids share."""
    return env.env_id.removeprefix("POPGym").removesuffix("-v0")


def _measures(envs: list[Environment]) -> str:
    return " / ".join(dict.fromkeys(env.score.measure for env in envs))


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)

"""The results of a matrix that are there, as arrays."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_elmur.comparison.cells import GREEDY, make_cells
from sb3_elmur.comparison.matrix import Environment, Matrix


@dataclass(frozen=True)
class Results:
    """
    Results by environment and agent.

    :param matrix: What was to be computed.
    :param n_cells: How many results it will have.
    :param learners: Names of the agents that learn.
    :param reports: Those that are there, seed by seed, by environment's id and agent's name.
    """

    matrix: Matrix
    n_cells: int
    learners: tuple[str, ...]
    reports: dict[tuple[str, str], list[dict[str, Any]]]

    @property
    def agents(self) -> list[str]:
        """Names of the agents that have a result."""
        names = {agent for _, agent in self.reports}
        return [agent.name for agent in self.matrix.agents if agent.name in names]

    @property
    def envs(self) -> list[Environment]:
        """Environments that have a result."""
        ids = {env_id for env_id, _ in self.reports}
        return [env for env in self.matrix.envs if env.env_id in ids]

    def of(self, env: Environment, agent: str) -> list[dict[str, Any]]:
        """Results of an agent in an environment."""
        return self.reports.get((env.env_id, agent), [])

    def values(self, env: Environment, agent: str, evaluated: str | None = None, way: str = GREEDY) -> np.ndarray:
        """
        What counts of each seed's evaluation.

        :param env: Where it was trained.
        :param agent: Who.
        :param evaluated: Where it was evaluated; ``None`` is the first.
        :param way: With the most probable actions, or with sampled ones.
        :raises ValueError: If success counts and the environment does not say it.
        """
        evaluations = [report[way][evaluated or env.evaluate[0]] for report in self.of(env, agent)]
        if any(env.score.measure not in evaluation for evaluation in evaluations):
            raise ValueError(f"`measure` of {env.env_id} must be return, for it reports no success. Received success.")
        return np.array([evaluation[env.score.measure] for evaluation in evaluations])

    def scores(self) -> dict[str, np.ndarray]:
        """
        Normalised scores of the agents that learn, (seeds, environments).

        They are of the environments in which all seeds of all agents are there.
        """
        n_seeds = len(self.matrix.seeds)
        learners = [agent for agent in self.agents if agent in self.learners]
        envs = [env for env in self.envs if all(len(self.of(env, agent)) == n_seeds for agent in learners)]
        if not envs:
            return {}
        return {agent: np.stack([env.score.normalise(self.values(env, agent)) for env in envs], 1) for agent in learners}


def read_results(matrix: Matrix, folder: Path) -> Results:
    """
    Read what is there.

    :param matrix: What was to be computed.
    :param folder: Folder of all matrices' results.
    :raises ValueError: If a result was computed otherwise than the matrix now says.
    """
    cells = make_cells(matrix, folder)
    reports: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        if (report := cell.read()) is not None:
            reports.setdefault((cell.env.env_id, cell.agent.name), []).append(report)
    learners = dict.fromkeys(cell.agent.name for cell in cells if cell.algorithm.settings_file is not None)
    return Results(matrix, len(cells), tuple(learners), reports)

"""Cells of a matrix: one agent in one environment with one seed, and the file with its result."""

import hashlib
import itertools
import json
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from typing_extensions import NotRequired, TypedDict

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.comparison.algorithm import Algorithm, Job, Outcomes
from sb3_elmur.comparison.evaluation import make_monitored
from sb3_elmur.comparison.matrix import Agent, Demonstrations, Environment, Matrix, Number
from sb3_elmur.comparison.provenance import provenance
from sb3_elmur.comparison.schemas import read
from sb3_elmur.comparison.settings import find_algorithm, resolve
from sb3_elmur.comparison.sources import source_hash
from sb3_elmur.recording.record import as_json, record

GREEDY, SAMPLED, LEFT_OUT = "evaluations", "sampled", "left to the classes"  # keys of a result
EVALUATION_SEED = 1_000_000  # far from the seeds of training and of demonstrations


Evaluation = TypedDict("Evaluation", {"return": Number, "success": NotRequired[Number], "returns": list[Number]})
Report = TypedDict(
    "Report",
    {
        "plan": dict[str, Any],
        "left to the classes": NotRequired[dict[str, Any]],
        "parameters": int,
        "effort": dict[str, Number],
        "evaluations": dict[str, Evaluation],
        "sampled": NotRequired[dict[str, Evaluation]],
        "curve": list[dict[str, Number]],
        "training CPU seconds": Number,
        "evaluation CPU seconds": Number,
        "date": str,
        "machine": dict[str, Any],
        "versions": dict[str, str],
    },
)
"""What a file of a result holds."""


@dataclass(frozen=True)
class Cell:
    """
    What one process computes.

    :param env: Where the agent is trained and evaluated.
    :param agent: Who it is.
    :param seed: Of its training.
    :param algorithm: How it is trained.
    :param settings: Its complete hyper-parameters.
    :param n_eval_episodes: Played of an evaluation.
    :param path: The file with its result.
    """

    env: Environment
    agent: Agent
    seed: int
    algorithm: Algorithm
    settings: dict[str, Any]
    n_eval_episodes: int
    path: Path

    @property
    def name(self) -> str:
        """The name of its file, without the suffix."""
        return self.path.stem

    @property
    def demonstrations(self) -> Demonstrations | None:
        """What it learns from, if it does."""
        return None if self.algorithm.settings_file is None else self.env.demonstrations

    def plan(self) -> dict[str, Any]:
        """All that decides its result, but for :data:`LEFT_OUT`."""
        plan = {
            "env": self.env.env_id,
            "agent": self.agent.name,
            "algo": self.agent.algo,
            "settings": self.settings,
            "evaluate": self.env.evaluate,
            SAMPLED: self.env.sampled,
            "n_eval_episodes": self.n_eval_episodes,
            "demonstrations": self.demonstrations and self.demonstrations.model_dump(),
            "budget": self.env.budget and self.demonstrations and self.env.budget.model_dump(),
        }
        return as_json(plan)

    def left_out(self) -> dict[str, Any]:
        """What decides its result, too: hyper-parameters that are left to the classes, and what they are there."""
        return as_json(self.algorithm.left_out(self.settings))

    def read(self) -> dict[str, Any] | None:
        """
        The result, or ``None`` if there is none yet.

        :raises ValueError: If it is damaged, or was computed otherwise than the matrix now says.
        """
        try:
            report = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path} is not a result: {error}") from error
        self.check(report)
        return report

    def check(self, report: Any) -> None:
        """
        Make sure that a result is complete, and what the matrix asks for.

        :param report: Of :func:`compute`, or of a file.
        :raises ValueError: If it is not.
        """
        read(Report, str(self.path), report)
        for key, value in self.plan().items():
            noted = report["plan"].get(key)
            if noted != value:
                raise ValueError(
                    f"{self.path} was computed with another `{key}`: {noted!r}. The matrix and zoo_configs now say {value!r}. "
                    "Delete the file, or give the matrix another name."
                )
        left_out = self.left_out()
        for name, noted in report.get(LEFT_OUT, left_out).items():
            if noted != left_out.get(name):
                raise ValueError(
                    f"{self.path} was computed when the default of `{name}` was {noted!r}. It is {left_out.get(name)!r} now. "
                    "Delete the file, or let the matrix say what it was."
                )
        for way in (GREEDY, SAMPLED) if self.env.sampled else (GREEDY,):
            if missing := set(self.env.evaluate) - set(report.get(way, ())):
                raise ValueError(f"{self.path} lacks `{way}` of {', '.join(sorted(missing))}. Delete the file.")
        needed = {"steps", self.env.score.measure}
        if not all(needed <= point.keys() for point in report["curve"]):
            raise ValueError(
                f"`curve` of {self.path} must have {' and '.join(sorted(needed))} everywhere: it is damaged, or the "
                "environment does not report success. Delete the file."
            )

    def write(self, report: dict[str, Any]) -> None:
        """
        Write the result, a line for each key, so that files of many numbers stay short.

        :param report: Of :func:`compute`.
        """
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in report.items())
        with atomic_path(self.path) as temporary:
            temporary.write_text(f"{{\n{lines}\n}}\n")


def make_cells(matrix: Matrix, folder: Path) -> list[Cell]:
    """
    All cells of a matrix, seed by seed. Agents that do not learn have seed 0 alone.

    :param matrix: The matrix.
    :param folder: Where results go, in a folder of the matrix's name.
    :raises ValueError: If hyper-parameters are wrong.
    """
    cells = {}
    for seed, env, agent in itertools.product(matrix.seeds, matrix.envs, matrix.agents):
        algorithm = find_algorithm(matrix, agent)
        seed = 0 if algorithm.settings_file is None else seed
        path = folder / matrix.name / f"{env.file_name}__{agent.name}__{seed}.json"
        if path not in cells:
            settings = resolve(matrix, env, agent)
            cells[path] = Cell(env, agent, seed, algorithm, settings, matrix.n_eval_episodes, path)
    return list(cells.values())


def compute(cell: Cell, demonstrations: Path | None, device: str = "cpu") -> dict[str, Any]:
    """
    Train and evaluate in this process, with one thread.

    :param cell: What to compute.
    :param demonstrations: Folder of the episodes that are learned from, if there are any.
    :param device: Where networks are trained.
    :return: The result.
    :raises ValueError: If it is none, as where rewards are not finite.
    """
    th.set_num_threads(1)
    _check_spaces(cell)
    start = time.process_time()
    trained = cell.algorithm.train(Job(cell.env.env_id, cell.settings, cell.seed, demonstrations, cell.env.budget, device))
    end = time.process_time()
    evaluations = {
        name: {
            env_id: _summary(trained.evaluate(env_id, cell.n_eval_episodes, EVALUATION_SEED, name == GREEDY))
            for env_id in cell.env.evaluate
        }
        for name in ((GREEDY, SAMPLED) if cell.env.sampled else (GREEDY,))
    }
    report = {
        "plan": cell.plan(),
        LEFT_OUT: cell.left_out(),
        "parameters": trained.n_parameters,
        "effort": trained.effort,
        **evaluations,
        "curve": trained.curve,
        "training CPU seconds": round(end - start, 1),
        "evaluation CPU seconds": round(time.process_time() - end, 1),
        **provenance(cell.seed, device),
    }
    cell.check(report)  # so that it fails here, and not the report of all cells
    return report


def _check_spaces(cell: Cell) -> None:
    """Refuse, before anything is trained, to evaluate where agents cannot act."""
    trained_in, env_kwargs = cell.env.env_id, cell.settings.get("env_kwargs") or {}
    others = [env_id for env_id in cell.env.evaluate if env_kwargs or env_id != trained_in]
    wanted = _spaces(trained_in, env_kwargs) if others else None
    for env_id in others:
        if _spaces(env_id) != wanted:
            trained_with = f" with `env_kwargs` {env_kwargs}" if env_kwargs else ""
            raise ValueError(
                f"`evaluate` must name environments with the spaces of {trained_in}{trained_with}. Received {env_id!r}."
            )


def _spaces(env_id: str, env_kwargs: dict[str, Any] | None = None) -> tuple[spaces.Space, spaces.Space]:
    env = make_monitored(env_id, 1, env_kwargs)
    env.close()
    return env.observation_space, env.action_space


def _summary(episodes: Outcomes) -> dict[str, Any]:
    """Mean return, success rate where the environment says it, and every episode's return."""
    returns = [episode["return"] for episode in episodes]
    successes = [episode["is_success"] for episode in episodes if "is_success" in episode]
    success = {"success": float(np.mean(successes))} if len(successes) == len(episodes) else {}
    return {
        "return": float(np.mean(returns)),
        **success,
        "mean length": float(np.mean([episode["length"] for episode in episodes])),
        "returns": [round(value, 6) for value in returns],
    }


def data_folder(cell: Cell, data: Path) -> Path | None:
    """
    Where the episodes are that a cell learns from. Those of another version of the expert are others.

    :param cell: The cell.
    :param data: Folder of all recordings.
    :return: Folder of this one, or ``None`` if the cell learns from none.
    """
    if cell.demonstrations is None:
        return None
    wanted = json.dumps([cell.demonstrations.model_dump(), version("sb3-elmur"), source_hash(cell.env.env_id)], sort_keys=True)
    return data / f"{cell.env.file_name}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"


def record_data(env_id: str, demonstrations: Demonstrations, folder: Path) -> None:
    """
    Record demonstrations, or go on with a recording of the same.

    :param env_id: Environment.
    :param demonstrations: How many, and of whom.
    :param folder: Where they go.
    """
    record(
        env_id, demonstrations.expert, folder, demonstrations.episodes,
        env_kwargs=demonstrations.env_kwargs, noise=demonstrations.noise,
    )  # fmt: skip

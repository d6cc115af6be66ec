"""What a matrix file says: which environments, agents and seeds, and how their results are scored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import yaml

from compare.success import may_report_success
from sb3_elmur.settings import build, check_known, check_type

KINDS = ("online", "bc")
ENV_KEYS = ("evaluate", "score", "demonstrations", "budget")  # beside settings


@dataclass(frozen=True)
class Score:
    """
    How a result becomes a score, to be aggregated over environments.

    :param measure: ``"return"``, the mean return, or ``"success"``, the success rate.
    :param low: Result with score 0.
    :param high: Result with score 1.
    """

    measure: str = "return"
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.measure not in ("return", "success"):
            raise ValueError(f"`measure` must be return or success. Received {self.measure!r}.")
        if self.low >= self.high:
            raise ValueError(f"`high` must be above `low` ({self.low:g}). Received {self.high:g}.")

    def normalise(self, results: np.ndarray) -> np.ndarray:
        """The scores of results."""
        return (results - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Demonstrations:
    """
    What behaviour cloning learns from.

    :param episodes: Number of episodes.
    :param expert: See :func:`sb3_elmur.recording.record.record`.
    :param noise: Share of steps at which a random action is played, while the expert's is recorded.
    :param env_kwargs: Arguments of the environment in which they are recorded.
    """

    episodes: int
    expert: str = "oracle"
    noise: float = 0.0
    env_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"`episodes` must be at least 1. Received {self.episodes}.")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"`noise` must lie between 0 and 1. Received {self.noise:g}.")


@dataclass(frozen=True)
class Budget:
    """
    How long behaviour cloning trains, the same for all agents; exactly one of the two, to a whole number of epochs.

    :param steps: Recorded steps that are trained on, each as often as it is.
    :param cpu_seconds: CPU seconds, as a short trial run predicts them.
    """

    steps: int | None = None
    cpu_seconds: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.steps, self.cpu_seconds) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ValueError(f"`budget` must be a positive number of `steps` or of `cpu_seconds`. Received {given}.")

    def __str__(self) -> str:
        return f"{self.cpu_seconds:g} CPU seconds" if self.steps is None else f"{self.steps:,} steps"


@dataclass(frozen=True)
class Environment:
    """
    A row of the tables.

    :param env_id: Where agents are trained.
    :param group: Heading under which the row stands, may be empty.
    :param evaluate: Ids in which they are evaluated; the first one counts.
    :param sampled: Whether they are evaluated with sampled actions besides the most probable ones.
    :param score: How its results are scored.
    :param demonstrations: How they are recorded there; ``None`` if nothing is cloned.
    :param budget: Of behaviour cloning; ``None`` leaves it to the settings.
    :param settings: Hyper-parameters in place of those of ``zoo_configs``.
    """

    env_id: str
    group: str
    evaluate: tuple[str, ...]
    sampled: bool
    score: Score
    demonstrations: Demonstrations | None
    budget: Budget | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class Agent:
    """
    A column of the tables.

    :param name: Its heading.
    :param algo: How it is trained, a key of :data:`compare.algorithms.ALGORITHMS`; ``None`` is the first of its kind.
    :param settings: Hyper-parameters in place of all others.
    """

    name: str
    algo: str | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class Matrix:
    """
    A comparison.

    :param name: Of the file, and of all that is made from it.
    :param title: Heading of the results page.
    :param kind: One of :data:`KINDS`.
    :param envs: Rows.
    :param agents: Columns; the first one is compared to each other.
    :param seeds: Seeds of training.
    :param n_eval_episodes: Episodes of an evaluation, the same for all agents.
    :param settings: Hyper-parameters in place of those of ``zoo_configs``, for all environments.
    :param notes: Markdown for the results page.
    """

    name: str
    title: str
    kind: str
    envs: tuple[Environment, ...]
    agents: tuple[Agent, ...]
    seeds: tuple[int, ...]
    n_eval_episodes: int
    settings: dict[str, Any]
    notes: str


@dataclass(frozen=True)
class _File:
    """Keys of a matrix file, with their types."""

    kind: str
    envs: list[Any] | dict[str, list[Any]]
    agents: dict[str, dict[str, Any] | None]
    seeds: list[int]
    n_eval_episodes: int
    sampled: bool = False
    title: str = ""
    notes: str = ""
    packages: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    demonstrations: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] | None = None
    score: dict[str, Any] = field(default_factory=dict)


def read_matrix(path: Path) -> Matrix:
    """
    Read a matrix file, and import the packages that register its environments.

    :param path: The YAML file.
    :raises ValueError: If it is not YAML, a key is unknown or missing, a value of the wrong type, an id not registered, or
        success to be measured in an environment that does not report it.
    """
    try:
        given = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    file = build(_File, path.name, given)
    if file.kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}. Received {file.kind!r}.")
    for name in ("budget", "demonstrations"):
        if file.kind != "bc" and getattr(file, name):
            raise ValueError(f"`{name}` is for `kind: bc`. Received {file.kind!r}.")
    if not file.seeds or len(set(file.seeds)) < len(file.seeds) or min(file.seeds) < 0:
        raise ValueError(f"`seeds` must be different numbers of at least 0. Received {list(file.seeds)}.")
    if file.n_eval_episodes < 1:
        raise ValueError(f"`n_eval_episodes` must be at least 1. Received {file.n_eval_episodes}.")
    for package in file.packages:
        import_module(package)
    groups: Mapping[str, Any] = file.envs if isinstance(file.envs, Mapping) else {"": file.envs}
    envs = tuple(_environment(file, group, item) for group, items in groups.items() for item in items)
    agents = tuple(_agent(name, given or {}) for name, given in file.agents.items())
    if not envs or not agents:
        raise ValueError(f"{path.name} needs at least one of `envs` and one of `agents`.")
    ids = [env.env_id for env in envs]
    if twice := {env_id for env_id in ids if ids.count(env_id) > 1}:
        raise ValueError(f"`envs` must be different ids. Received {', '.join(sorted(twice))} twice.")
    unknown = {env_id for env in envs for env_id in (env.env_id, *env.evaluate)} - set(gymnasium.registry)
    if unknown:
        raise ValueError(
            f"`envs` of {path.name} must be registered ids. Unknown are {', '.join(sorted(unknown))}. Install what provides "
            "them, and name its package in `packages`."
        )
    for env_id in dict.fromkeys(env_id for env in envs if env.score.measure == "success" for env_id in env.evaluate):
        if not may_report_success(env_id):
            raise ValueError(
                f"`measure` must be return where {env_id} is evaluated, for it reports no success. Received success."
            )
    return Matrix(
        name=path.stem,
        title=file.title or path.stem,
        kind=file.kind,
        envs=envs,
        agents=agents,
        seeds=tuple(file.seeds),
        n_eval_episodes=file.n_eval_episodes,
        settings=file.settings,
        notes=file.notes,
    )


def _environment(file: _File, group: str, item: Any) -> Environment:
    """An entry of ``envs``: an id, or an id and what is special about it."""
    entry: dict[str, Any] = item if isinstance(item, dict) else {item: {}}
    check_type("An entry of `envs`", entry, dict[str, dict[str, Any] | None])
    if len(entry) != 1:
        raise ValueError(f"An entry of `envs` must be one id. Received {', '.join(entry)}.")
    ((env_id, given),) = entry.items()
    given = dict(given or {})
    where = f"of {env_id}"
    special = {key: given.pop(key) for key in ENV_KEYS if key in given}
    evaluate = special.get("evaluate", [env_id])
    check_type(f"`evaluate` {where}", evaluate, list[str])
    if not evaluate:
        raise ValueError(f"`evaluate` {where} must be at least one id. Received none.")
    for key in ("score", "demonstrations"):
        check_type(f"`{key}` {where}", special.setdefault(key, {}), dict[str, Any])
    demonstrations = budget = None
    if file.kind == "bc":
        given_budget = special.get("budget", file.budget)
        budget = None if given_budget is None else build(Budget, f"`budget` {where}", given_budget)
        demonstrations = build(Demonstrations, f"`demonstrations` {where}", file.demonstrations | special["demonstrations"])
    score = build(Score, f"`score` {where}", file.score | special["score"])
    return Environment(env_id, group, tuple(evaluate), file.sampled, score, demonstrations, budget, given)


def _agent(name: str, given: dict[str, Any]) -> Agent:
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(f"Names of `agents` must be of letters, digits and any of _ . + -. Received {name!r}.")
    settings = dict(given)
    algo = settings.pop("algo", None)
    check_type(f"`algo` of agent {name!r}", algo, str | None)
    return Agent(name, algo, settings)


def select(
    matrix: Matrix, envs: list[str] | None = None, agents: list[str] | None = None, seeds: list[int] | None = None
) -> Matrix:
    """
    A part of a matrix.

    :param matrix: The whole.
    :param envs: Ids to keep; ``None`` keeps all.
    :param agents: Names to keep.
    :param seeds: Seeds to keep.
    :raises ValueError: If the matrix lacks one of them.
    """
    if envs is not None:
        check_known("environment in `--only-envs`", envs, [env.env_id for env in matrix.envs])
        matrix = replace(matrix, envs=tuple(env for env in matrix.envs if env.env_id in envs))
    if agents is not None:
        check_known("agent in `--only-agents`", agents, [agent.name for agent in matrix.agents])
        matrix = replace(matrix, agents=tuple(agent for agent in matrix.agents if agent.name in agents))
    if seeds is not None:
        check_known("seed in `--seeds`", seeds, matrix.seeds)
        matrix = replace(matrix, seeds=tuple(seeds))
    return matrix

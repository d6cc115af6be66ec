"""What a matrix file says: which environments, agents and seeds, and how their results are scored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np

from sb3_elmur.command_line import import_packages
from sb3_elmur.comparison.schemas import Field, Model, model_validator, read
from sb3_elmur.comparison.success import may_report_success
from sb3_elmur.settings import check_known, check_type, read_file

Count = Annotated[int, Field(ge=1, lt=2**63)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[\w.+-]+$")]
_Entry = str | dict[str, dict[str, Any] | None]


class Score(Model):
    """
    How a result becomes a score, to be aggregated over environments.

    :param measure: ``"return"``, the mean return, or ``"success"``, the success rate.
    :param low: Result with score 0.
    :param high: Result with score 1.
    """

    measure: Literal["return", "success"] = "return"
    low: Number = 0.0
    high: Number = 1.0

    @model_validator(mode="after")
    def _check_order(self) -> "Score":
        if self.low >= self.high:
            raise ValueError(f"`high` must be above `low` ({self.low:g}). Received {self.high:g}.")
        return self

    def normalise(self, results: np.ndarray) -> np.ndarray:
        """The scores of results."""
        return (results - self.low) / (self.high - self.low)


class Demonstrations(Model):
    """
    What behaviour cloning learns from.

    :param episodes: Number of episodes.
    :param expert: See :func:`sb3_elmur.recording.record.record`.
    :param noise: Share of steps at which a random action is played, while the expert's is recorded.
    :param env_kwargs: Arguments of the environment in which they are recorded.
    """

    episodes: Count
    expert: str = "oracle"
    noise: float = Field(0.0, ge=0, le=1)
    env_kwargs: dict[str, Any] = Field(default_factory=dict)


class Budget(Model):
    """
    How long behaviour cloning trains, the same for all agents; exactly one of the two, to a whole number of epochs.

    :param steps: Recorded steps that are trained on, each as often as it is.
    :param cpu_seconds: CPU seconds, as a short trial run predicts them.
    """

    steps: Count | None = None
    cpu_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_one(self) -> "Budget":
        if (self.steps is None) == (self.cpu_seconds is None):
            raise ValueError("`budget` must be a number of `steps` or of `cpu_seconds`, one of them.")
        return self

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

    @property
    def file_name(self) -> str:
        """Of the id, in the names of files and folders."""
        return self.env_id.replace("/", "-")


@dataclass(frozen=True)
class Agent:
    """
    A column of the tables.

    :param name: Its heading.
    :param algo: How it is trained, a key of :data:`~sb3_elmur.comparison.algorithms.ALGORITHMS`; ``None``: the first.
    :param settings: Hyper-parameters in place of all others.
    """

    name: str
    algo: str | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class Matrix:
    """
    A comparison.

    :param path: The file; its name is that of all that is made from it.
    :param title: Heading of the results page.
    :param kind: ``"online"`` or ``"bc"``.
    :param packages: Packages that register environments, imported by every process.
    :param envs: Rows.
    :param agents: Columns; the first one is compared to each other.
    :param seeds: Seeds of training.
    :param n_eval_episodes: Episodes of an evaluation, the same for all agents.
    :param settings: Hyper-parameters in place of those of ``zoo_configs``, for all environments.
    :param resources: What each cell needs of what a cluster's workers offer, such as ``{"GPU": 1}``.
    :param notes: Markdown for the results page.
    """

    path: Path
    title: str
    kind: str
    packages: tuple[str, ...]
    envs: tuple[Environment, ...]
    agents: tuple[Agent, ...]
    seeds: tuple[int, ...]
    n_eval_episodes: int
    settings: dict[str, Any]
    resources: dict[str, float]
    notes: str

    @property
    def name(self) -> str:
        """Of all that is made from it."""
        return self.path.stem


class _File(Model):
    """Keys of a matrix file."""

    kind: Literal["online", "bc"]
    envs: list[_Entry] | dict[str, list[_Entry]]
    agents: dict[Name, dict[str, Any] | None] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(min_length=1)
    n_eval_episodes: Count
    sampled: bool = False
    title: str = ""
    notes: str = ""
    packages: list[str] = Field(default_factory=list)
    resources: dict[Name, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    demonstrations: dict[str, Any] = Field(default_factory=dict)
    budget: dict[str, Any] | None = None
    score: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_kind(self) -> "_File":
        for name in ("budget", "demonstrations"):
            if self.kind != "bc" and getattr(self, name):
                raise ValueError(f"`{name}` is for `kind: bc`. Received {self.kind!r}.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` must be different numbers. Received {self.seeds}.")
        return self


class _Special(Model):
    """Keys of an environment beside its hyper-parameters."""

    evaluate: list[str] | None = Field(None, min_length=1)
    score: dict[str, Any] = Field(default_factory=dict)
    demonstrations: dict[str, Any] = Field(default_factory=dict)
    budget: dict[str, Any] | None = None


def read_matrix(path: Path) -> Matrix:
    """
    Read a matrix file, and import the packages that register its environments.

    :param path: The YAML file.
    :return: What it says.
    :raises OSError: If it cannot be read.
    :raises ValueError: If it is not YAML, a key is unknown or missing, a value of the wrong type, an id not registered, or
        success to be measured in an environment that does not report it.
    """
    file = read(_File, path.name, read_file(path))
    import_packages(file.packages)
    groups: Mapping[str, Any] = file.envs if isinstance(file.envs, Mapping) else {"": file.envs}
    envs = tuple(_environment(file, group, entry) for group, entries in groups.items() for entry in entries)
    if not envs:
        raise ValueError(f"{path.name} needs at least one of `envs`.")
    names = [env.file_name for env in envs]
    if twice := {env.env_id for env in envs if names.count(env.file_name) > 1}:
        raise ValueError(
            f"`envs` must be different ids, also where files have - in place of /. Received {', '.join(sorted(twice))}."
        )
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
        path=path,
        title=file.title or path.stem,
        kind=file.kind,
        packages=tuple(file.packages),
        envs=envs,
        agents=tuple(_agent(name, settings or {}) for name, settings in file.agents.items()),
        seeds=tuple(file.seeds),
        n_eval_episodes=file.n_eval_episodes,
        settings=file.settings,
        resources=file.resources,
        notes=file.notes,
    )


def _environment(file: _File, group: str, entry: str | dict[str, dict[str, Any] | None]) -> Environment:
    """An entry of ``envs``: an id, or an id and what is special about it."""
    if isinstance(entry, str):
        entry = {entry: None}
    if len(entry) != 1:
        raise ValueError(f"An entry of `envs` must be one id. Received {', '.join(entry) or 'none'}.")
    ((env_id, values),) = entry.items()
    settings = dict(values or {})
    special = read(_Special, env_id, {key: settings.pop(key) for key in _Special.model_fields if key in settings})
    demonstrations = budget = None
    if file.kind == "bc":
        limit = special.budget if "budget" in special.model_fields_set else file.budget
        budget = None if limit is None else read(Budget, f"`budget` of {env_id}", limit)
        source = file.demonstrations | special.demonstrations
        demonstrations = read(Demonstrations, f"`demonstrations` of {env_id}", source)
    score = read(Score, f"`score` of {env_id}", file.score | special.score)
    evaluate = tuple(special.evaluate or (env_id,))
    return Environment(env_id, group, evaluate, file.sampled, score, demonstrations, budget, settings)


def _agent(name: str, values: dict[str, Any]) -> Agent:
    settings = dict(values)
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

"""What the runner asks of a way to obtain an agent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sb3_elmur.comparison.matrix import Budget

Outcomes = list[dict[str, float]]  # of each its `return`, `length`, and `is_success` where the environment says it


@dataclass(frozen=True)
class Job:
    """
    What to train.

    :param env_id: Environment.
    :param settings: Complete hyper-parameters.
    :param seed: Seed of everything random.
    :param demonstrations: Folder of recorded episodes, where the algorithm needs them.
    :param budget: Of behaviour cloning.
    :param device: Where networks are trained.
    """

    env_id: str
    settings: dict[str, Any]
    seed: int
    demonstrations: Path | None
    budget: Budget | None
    device: str


@dataclass(frozen=True)
class Trained:
    """
    An agent that can be evaluated.

    :param evaluate: From an environment's id, a number of episodes, a seed, and whether the most probable actions are taken or
        sampled ones, to the episodes.
    :param n_parameters: Of its networks.
    :param curve: Points of its learning curve: ``steps``, mean ``return`` and, maybe, ``success`` of recent training episodes.
    :param effort: How long it was trained, such as ``steps`` and ``updates``.
    """

    evaluate: Callable[[str, int, int, bool], Outcomes]
    n_parameters: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    effort: dict[str, float] = field(default_factory=dict)


class Algorithm(Protocol):
    """A way to obtain an agent."""

    @property
    def settings_file(self) -> str | None:
        """The file of ``zoo_configs`` with its hyper-parameters; ``None`` if it has none, and one seed is enough."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Hyper-parameters in place of those of the file."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Hyper-parameters that the file leaves to the class for which it was written."""

    def hints(self) -> Mapping[str, Any]:
        """Annotations of all hyper-parameters that it takes."""

    def policy_hints(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Annotations of all ``policy_kwargs`` that the policy of these hyper-parameters takes."""

    def check(self, settings: Mapping[str, Any]) -> None:
        """
        Check values.

        :param settings: By name.
        :raises ValueError: If a value is outside its range.
        """

    def left_out(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """
        Hyper-parameters that are left to the classes, and what they are there.

        :param settings: Those that are not.
        """

    def train(self, job: Job) -> Trained:
        """Obtain the agent."""

"""Aggregates over environments and seeds, with intervals, by rliable (Agarwal et al. 2021, arXiv 2108.13264)."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from gymnasium.error import DependencyNotInstalled

N_RESAMPLES = 2000
Scores = Mapping[str, np.ndarray]  # by agent, (seeds, environments)


class Interval(NamedTuple):
    """
    An estimate with its 95% interval.

    :param value: The estimate.
    :param low: 2.5% quantile of the stratified bootstrap.
    :param high: 97.5% quantile.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interquartile_means(scores: Scores) -> dict[str, Interval]:
    """The mean of the middle half of all scores of each agent."""
    _, metrics = _rliable()
    return _estimate(scores, lambda values: np.array([metrics.aggregate_iqm(values)]))


def means(scores: Scores) -> dict[str, Interval]:
    """The mean score of each agent."""
    return _estimate(scores, lambda values: np.array([values.mean()]))


def improvements(scores: Scores, agent: str) -> dict[str, Interval]:
    """
    The probability that one agent does better than another in a random environment; ties count one half.

    :param scores: Of all agents.
    :param agent: Who is compared to each other.
    """
    pairs = {other: (scores[agent], values) for other, values in scores.items() if other != agent}
    return _estimate(pairs, lambda one, other: np.array([probability_of_improvement(one, other)]))


def probability_of_improvement(one: np.ndarray, other: np.ndarray) -> float:
    """What rliable's function of this name computes, without its loop over environments."""
    return float((1 + np.sign(one[:, None] - other[None])).mean() / 2)


def _estimate(scores: Mapping[str, Any], aggregate: Callable[..., np.ndarray]) -> dict[str, Interval]:
    library, _ = _rliable()
    state = np.random.get_state()
    np.random.seed(0)  # rliable draws from the global generator
    try:
        values, intervals = library.get_interval_estimates(scores, aggregate, reps=N_RESAMPLES)
    finally:
        np.random.set_state(state)
    return {name: Interval(float(values[name][0]), *map(float, intervals[name][:, 0])) for name in scores}


def _rliable() -> tuple[ModuleType, ModuleType]:
    try:
        from rliable import library, metrics  # type: ignore[import-untyped]
    except ImportError as error:
        raise DependencyNotInstalled('rliable cannot be used: run `pip install "sb3-elmur[compare]"`.') from error
    return library, metrics

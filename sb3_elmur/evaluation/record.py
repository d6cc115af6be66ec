"""What an evaluation has found so far, in files from which an interrupted one goes on; and what is said of it in the end."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.core.memory import EMPTY, Memory
from sb3_elmur.datasets.fields import DataError
from sb3_elmur.datasets.npz import open_arrays
from sb3_elmur.evaluation.corridors import Walk
from sb3_elmur.evaluation.episodes import wilson_interval

SECONDS_BETWEEN_RECORDS = 30.0
INTERVAL = "_95%"  # ends the name of a success rate's confidence interval
EPISODES = "episodes"


class Record:
    """
    What an evaluation has found so far, in a JSON file.

    :param path: The file, which is continued if it is there, and whose folder is made; ``None`` keeps nothing.
    :param settings: What the file must have in common with this evaluation.
    :raises ValueError: If the file is the record of another evaluation, or none at all.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.content: dict[str, Any] = {
            "settings": settings, "steps": 0, "seconds": 0.0, "steps_per_second": 0.0, "results": {}, EPISODES: []
        }  # fmt: skip
        self._saved = time.perf_counter()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return
        content = _read_record(path)
        names = sorted(settings.keys() | content["settings"].keys())
        if different := [name for name in names if content["settings"].get(name) != settings.get(name)]:
            raise ValueError(
                f"{path} is the record of an evaluation with other {', '.join(different)}. Choose another `--output`."
            )
        self.content = content

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Of each length, or of ``"episodes"``, what :func:`summarise` says."""
        return self.content["results"]

    @property
    def episodes(self) -> list[dict[str, float]]:
        """What :func:`sb3_elmur.evaluation.episodes.run_episodes` returned."""
        return self.content[EPISODES]

    @property
    def walk_path(self) -> Path | None:
        """Where corridors that are under way are kept."""
        return None if self.path is None else self.path.with_name(f"{self.path.name}.walk.npz")

    def due(self) -> bool:
        """Whether the last saving was a while ago."""
        return time.perf_counter() - self._saved > SECONDS_BETWEEN_RECORDS

    def add_episodes(self, episodes: list[dict[str, float]]) -> None:
        """
        Add what was found, and write the record.

        :param episodes: What :func:`sb3_elmur.evaluation.episodes.run_episodes` returned.
        """
        self.content[EPISODES] += episodes
        names = [name for name in self.episodes[0] if all(name in episode for episode in self.episodes)]
        self.results[EPISODES] = summarise({name: [episode[name] for episode in self.episodes] for name in names})
        self.save(sum(int(episode["length"]) for episode in self.episodes))

    def save(self, steps: int) -> None:
        """
        Write the record.

        :param steps: Environment steps that have led to what it holds.
        """
        now = time.perf_counter()
        self.content["steps"] = steps
        self.content["seconds"] += now - self._saved
        self.content["steps_per_second"] = round(steps / self.content["seconds"], 1)
        self._saved = now
        if self.path is not None:
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(self.content, indent=2) + "\n")

    def rows(self) -> list[tuple[str, float, Sequence[float] | None]]:
        """Label, value and confidence interval for each length, or for each kind of outcome of the episodes."""
        outcomes = self.results.get(EPISODES)
        if outcomes is None:
            rows = [(f"{int(length):,}", "is_success", result) for length, result in self.results.items()]
        else:
            rows = [(name, name, outcomes) for name in outcomes if name != "n" and not name.endswith(INTERVAL)]
        return [(label, result[name], result.get(name + INTERVAL)) for label, name, result in rows]

    def table(self) -> str:
        """The results as text."""
        of_lengths, content = EPISODES not in self.results, self.content
        lines = [f"{'length' if of_lengths else '':>12}{'success' if of_lengths else 'mean':>12}    95% interval"]
        for label, value, interval in self.rows():
            lines.append(f"{label:>12}{value:>12,.3f}" + ("    {:.3f} - {:.3f}".format(*interval) if interval else ""))
        return "\n".join(lines) + (
            f"\n{self.settings['n_episodes']:,} episodes{' of each length' if of_lengths else ''}, "
            f"{content['steps']:,} steps in {content['seconds']:,.0f} s: {content['steps_per_second']:,.0f} steps per second"
        )


def _read_record(path: Path) -> dict[str, Any]:
    """The content of a record, with all that is read from it checked."""
    if not path.is_file():
        raise ValueError(f"{path} is not the record of an evaluation: it is no file.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        good = _is_content(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} is not the record of an evaluation: {error!r}") from error
    if not good:
        raise ValueError(f"{path} is not the record of an evaluation.")
    return content


def _is_content(content: dict[str, Any]) -> bool:
    """Whether the parts of a record are of the right kinds, and fit each other."""
    results, episodes = content["results"], content[EPISODES]
    counts = [content[name] for name in ("steps", "seconds", "steps_per_second")]
    return (
        isinstance(content["settings"], dict)
        and isinstance(episodes, list)
        and type(content["steps"]) is int
        and all(_is_number(count) and count >= 0 for count in counts)
        and all(_is_result(name, result) for name, result in results.items())
        and all({"return", "length"} <= episode.keys() for episode in episodes)
        and all(_is_number(value) for episode in episodes for value in episode.values())
    )


def _is_result(name: str, result: dict[str, Any]) -> bool:
    """Whether it is what :func:`summarise` returns, of a length or of episodes."""
    intervals = [value for key, value in result.items() if key.endswith(INTERVAL)]
    numbers = [value for key, value in result.items() if not key.endswith(INTERVAL)]
    return (
        (name == EPISODES or (name.isdecimal() and "is_success" in result))
        and "n" in result
        and all(isinstance(pair, list) and len(pair) == 2 for pair in intervals)
        and all(map(_is_number, [*numbers, *(bound for pair in intervals for bound in pair)]))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def compare_models(records: Sequence[Record]) -> str:
    """
    Mean and standard error over models, such as those of several seeds, of what is known of all of them, as text.

    :param records: Of the same evaluation, of at least two models.
    :return: A table.
    """
    lines = [f"{'':>12}{'mean':>12}    standard error over {len(records)} models"]
    first, *others = ({label: value for label, value, _ in record.rows()} for record in records)
    for label in first:
        if all(label in other for other in others):
            values = np.array([first[label], *(other[label] for other in others)])
            lines.append(f"{label:>12}{values.mean():>12,.3f}    {values.std(ddof=1) / len(values) ** 0.5:,.3f}")
    return "\n".join(lines)


def summarise(values: dict[str, Any]) -> dict[str, Any]:
    """
    Means, and the 95% confidence interval of each kind of success.

    :param values: Of each outcome its value in n episodes, (n,). Shares of successes count as one trial each, which makes
        their interval no narrower than it should be.
    :return: The number of episodes, and by the names of outcomes their means and intervals.
    """
    summary: dict[str, Any] = {"n": len(next(iter(values.values())))}
    for name, value in values.items():
        summary[name] = float(np.mean(value))
        if name.endswith("success"):
            summary[name + INTERVAL] = [round(bound, 4) for bound in wilson_interval(summary[name], len(value))]
    return summary


def save_walk(path: Path, walk: Walk, settings: dict[str, Any]) -> None:
    """
    Write a walk to an ``.npz`` file.

    :param path: The file.
    :param walk: How far corridors have got.
    :param settings: Of the evaluation.
    """
    memory = {name: field.cpu().numpy() for name, field in walk.memory._asdict().items()}
    reached = np.array(list(walk.results), dtype=np.int64)
    successes = np.array(list(walk.results.values()), dtype=bool).reshape(len(reached), len(walk.late))
    with atomic_path(path) as temporary:
        np.savez(temporary, settings=json.dumps(settings), late=walk.late, reached=reached, successes=successes, **memory)


def load_walk(path: Path, settings: dict[str, Any], like: Memory) -> Walk:
    """
    Read what :func:`save_walk` wrote.

    :param path: The file.
    :param settings: Of the evaluation.
    :param like: Memory of the policy, of as many rows, on its device.
    :return: The walk.
    :raises ValueError: If the file is something else, or of another evaluation.
    """
    try:
        arrays = _read_walk(path)
        same = arrays["settings"].item() == json.dumps(settings)
    except (DataError, KeyError) as error:
        raise ValueError(f"{path} does not hold corridors that are under way: {error}. Delete it to begin anew.") from error
    if not same:
        raise ValueError(f"{path} holds corridors of another evaluation. Delete it to begin anew.")
    memory = Memory(*(th.as_tensor(arrays[name], device=like.slots.device) for name in Memory._fields))
    batch, time = len(like.position), memory.position
    if not (
        all(one.shape == other.shape and one.dtype == other.dtype for one, other in zip(memory, like, strict=True))
        and arrays["late"].shape == (batch,)
        and arrays["successes"].shape == (*arrays["reached"].shape, batch)
        and (time == time[0]).all()
        and time[0] >= 0
        and ((memory.anchors >= EMPTY) & (memory.anchors < time[:, None].clamp(min=0))).all()
    ):
        raise ValueError(f"{path} does not hold corridors of this policy. Delete it to begin anew.")
    return Walk(memory, arrays["late"], dict(zip(arrays["reached"].tolist(), arrays["successes"], strict=True)))


def _read_walk(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a walk, of the right types."""
    kinds = {"settings": "U", "late": "i", "reached": "i", "successes": "b", "slots": "f", "anchors": "i", "position": "i"}
    with open_arrays(path) as stored:
        for name, kind in kinds.items():
            stored[name].read_header()
            if stored[name].dtype.kind != kind or (name == "settings" and stored[name].shape):
                raise DataError(f"`{name}` must be of another type. Found {stored[name].dtype}")
        return {name: stored[name].read() for name in kinds}

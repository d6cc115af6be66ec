"""The results page of a matrix, Markdown and figures, made of its JSON files and nothing else."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.comparison import figures, statistics
from sb3_elmur.comparison.cells import GREEDY, LEFT_OUT, SAMPLED
from sb3_elmur.comparison.matrix import Environment, Matrix
from sb3_elmur.comparison.results import Results, read_results
from sb3_elmur.comparison.tables import markdown_table


def write_report(matrix: Matrix, folder: Path, pages: Path) -> str:
    """
    Write ``<matrix>.md`` and its figures.

    :param matrix: What was to be computed.
    :param folder: Folder of all matrices' results.
    :param pages: Folder of pages.
    :return: The page.
    :raises ValueError: If a result was computed otherwise than the matrix now says.
    """
    results = read_results(matrix, folder)
    page = pages / f"{matrix.name}.md"
    pages.mkdir(parents=True, exist_ok=True)
    parts = [f"# {matrix.title}", _introduction(results, folder, pages)]
    if results.reports:
        parts += [matrix.notes] if matrix.notes else []
        parts += _aggregates(results, page)
        parts += ["## By environment", _by_environment(results), _figure(page, "bars", "Results by environment")]
        figures.draw_bars(results, _image(page, "bars"))
        if _has_sampled(results):
            parts += ["## Sampled actions", _by_environment(results, SAMPLED)]
        parts += _elsewhere(results)
        if any(report["curve"] for reports in results.reports.values() for report in reports):
            figures.draw_curves(results, _image(page, "curves"))
            parts += ["## Learning curves", _figure(page, "curves", "Learning curves")]
        parts += ["## Networks and cost", _costs(results), "## Versions and machines", _provenance(results)]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    with atomic_path(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def _introduction(results: Results, folder: Path, pages: Path) -> str:
    matrix = results.matrix
    command = shlex.join(
        ["sb3-elmur", "compare", str(matrix.path), "--report", "--results", str(folder), "--pages", str(pages)]
    )
    n_reports = sum(map(len, results.reports.values()))
    seeds = f"Seed{'s' * (len(matrix.seeds) > 1)} {', '.join(map(str, matrix.seeds))}"
    sampled = ", and once more sampled ones," if _has_sampled(results) else ""
    return (
        f"Made by `{command}`: change the matrix or its results, not this page. "
        f"{n_reports} of {results.n_cells} results are there. {seeds}; every evaluation "
        f"takes the most probable actions{sampled} in the same {matrix.n_eval_episodes} episodes." + _budgets(matrix)
    )


def _has_sampled(results: Results) -> bool:
    return bool(results.envs) and all(env.sampled for env in results.envs)


def _budgets(matrix: Matrix) -> str:
    limits = {env.budget for env in matrix.envs if env.budget is not None}
    budgets = sorted(limits, key=lambda budget: budget.steps or budget.cpu_seconds or 0.0)
    if not budgets:
        return ""
    text = str(budgets[0]) if len(budgets) == 1 else f"{budgets[0]} to {budgets[-1]}, by environment"
    return f" Budget of training, the same for all agents of an environment: {text}."


def _aggregates(results: Results, page: Path) -> list[str]:
    """Statistics over all environments that are complete, if there are any."""
    scores = results.scores()
    if len(scores) < 2 or len(next(iter(scores.values()))) < 2:  # one seed leaves the bootstrap nothing to resample
        return []
    first, shape = next(iter(scores)), next(iter(scores.values())).shape
    middle, mean = statistics.interquartile_means(scores), statistics.means(scores)
    better: dict[str, Any] = statistics.improvements(scores, first)
    rows = [[agent, middle[agent], mean[agent], better.get(agent, "")] for agent in scores]
    figures.draw_aggregates(middle, "interquartile mean of normalised scores, 95% interval", _image(page, "aggregate"))
    return [
        "## All environments",
        f"Scores of {shape[0]} seeds in {shape[1]} environment{'s' * (shape[1] > 1)}, {_scale(results)}: interquartile mean, "
        f"mean, and the probability that `{first}` does better, with 95% intervals of the stratified bootstrap over seeds "
        "(rliable).",
        markdown_table(["", "IQM", "mean", f"P({first} is better)"], rows),
        _figure(page, "aggregate", "Interquartile means"),
    ]


def _scale(results: Results) -> str:
    """How scores are normalised."""
    scales = dict.fromkeys(f"{env.score.measure} from {env.score.low:g} to {env.score.high:g}" for env in results.envs)
    return f"{' and '.join(scales)} mapped to 0 to 1"


def _by_environment(results: Results, way: str = GREEDY) -> str:
    """Mean over seeds and standard deviation, and their sum where the scale is common."""
    rows: list[list[object]] = []
    group = ""
    for env in results.envs:
        if env.group != group:
            group = env.group
            rows.append([f"**{group}**", *[""] * len(results.agents)])
        learned = [results.values(env, agent, way=way) for agent in results.learners]
        best = max((values.mean() for values in learned if len(values)), default=None)
        rows.append([env.env_id, *(_entry(results, env, agent, best=best, way=way) for agent in results.agents)])
    if len({env.score for env in results.envs}) == 1 and results.envs[0].score.measure == "return":
        rows.append([f"**sum of {len(results.envs)}**", *(_sum(results, agent, way) for agent in results.agents)])
    measures = " or ".join(dict.fromkeys(f"mean {env.score.measure}" for env in results.envs))
    if len(results.matrix.seeds) == 1:
        note = f"The {measures} of one seed, the best that was learned in bold."
    else:
        note = (
            f"The {measures}, its mean and standard deviation over seeds, the best that was learned in bold; in parentheses "
            "the number of seeds where some are missing."
        )
    return note + "\n\n" + markdown_table(["", *results.agents], rows)


def _entry(
    results: Results,
    env: Environment,
    agent: str,
    evaluated: str | None = None,
    best: float | None = None,
    way: str = GREEDY,
) -> str:
    """Mean and standard deviation over seeds, bold if it is the best that was learned."""
    values = results.values(env, agent, evaluated, way)
    if not len(values):
        return ""
    learns = agent in results.learners
    text = f"{_number(values.mean())} ± {_number(values.std(ddof=1))}" if len(values) > 1 else _number(values.mean())
    missing = f" ({len(values)})" if learns and len(values) < len(results.matrix.seeds) else ""
    return (f"**{text}**" if learns and values.mean() == best else text) + missing


def _sum(results: Results, agent: str, way: str) -> str:
    """The sum over environments of means over seeds, where there is one for each."""
    values = [results.values(env, agent, way=way) for env in results.envs]
    present = [value.mean() for value in values if len(value)]
    missing = "" if len(present) == len(values) else f" (of {len(present)})"
    return f"**{_number(float(np.sum(present)))}**{missing}"


def _elsewhere(results: Results) -> list[str]:
    """Evaluation in other environments than that of training."""
    envs = [env for env in results.envs if len(env.evaluate) > 1]
    if not envs:
        return []
    rows = [
        [env.env_id, evaluated, *(_entry(results, env, agent, evaluated) for agent in results.agents)]
        for env in envs
        for evaluated in env.evaluate
    ]
    return ["## Beyond training", markdown_table(["trained in", "evaluated in", *results.agents], rows)]


def _costs(results: Results) -> str:
    """Parameters and CPU seconds of training, as ranges over environments and seeds."""
    rows = []
    for agent in results.agents:
        reports = [report for env in results.envs for report in results.of(env, agent)]
        effort = dict.fromkeys(name for report in reports for name in report["effort"])
        rows.append(
            [
                agent,
                _range([report["parameters"] for report in reports]),
                "; ".join(f"{_range([report['effort'][name] for report in reports])} {name}" for name in effort),
                _range([round(report["training CPU seconds"]) for report in reports]),
                _range([round(report["evaluation CPU seconds"]) for report in reports]),
            ]
        )
    header = ["", "parameters", "effort of training", "training, CPU s", "evaluation, CPU s"]
    return markdown_table(header, rows)


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _provenance(results: Results) -> str:
    reports = [report for reports in results.reports.values() for report in reports]
    dates = sorted(report["date"] for report in reports)
    machines = [report["machine"] for report in reports]
    processors = dict.fromkeys(" with ".join(filter(None, (m.get("gpu"), m["cpu"]))) for m in machines)
    versions: dict[str, dict[str, None]] = {}
    for report in reports:
        for package, version in report["versions"].items():
            versions.setdefault(package, {})[version] = None
    packages = ", ".join(f"{package} {' and '.join(numbers)}" for package, numbers in versions.items())
    unknown = sum(LEFT_OUT not in report for report in reports)
    older = f" {unknown} of the results do not say what the defaults of the classes were." if unknown else ""
    return f"{dates[0]} to {dates[-1]}. {'; '.join(processors)}, one thread per run. {packages}.{older}"


def _number(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def _image(page: Path, name: str) -> Path:
    return page.with_name(f"{page.stem}_{name}.png")


def _figure(page: Path, name: str, title: str) -> str:
    return f"![{title}]({quote(_image(page, name).name)})"

"""The command line."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gymnasium
from common import RESULTS

import sb3_elmur  # noqa: F401, registers environments
from compare.cells import compute, make_cells
from compare.matrix import read_matrix, select
from compare.report import write_report
from compare.runner import run_cells

ROOT = RESULTS.parents[1]


def main(script: str, description: str | None, arguments: Sequence[str] | None = None) -> int:
    """
    Run what a matrix lacks, and write its report.

    :param script: The script that was called, which computes single cells too.
    :param description: Its help.
    :param arguments: Command line; ``None`` means that of the process.
    :return: Exit status: 1 if a cell failed or the matrix is wrong.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("matrix", type=Path, help="YAML file, such as benchmarks/matrices/tmaze_online.yml")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time, of one thread each (default: 2)")
    parser.add_argument("--only-envs", nargs="+", metavar="ID", help="run these environments alone")
    parser.add_argument("--only-agents", nargs="+", metavar="NAME", help="run these agents alone")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="run these seeds alone")
    parser.add_argument("--report", action="store_true", help="only report what is there")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results go (default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the report goes (default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path(tempfile.gettempdir()) / "sb3-elmur-demonstrations",
        help="where demonstrations are recorded, once (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where networks are trained (default: %(default)s)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # the selected cell, in this process
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"argument --workers: must be at least 1. Received {options.workers}.")
    try:
        matrix = read_matrix(options.matrix)
        chosen = select(matrix, options.only_envs, options.only_agents, options.seeds)
        cells = make_cells(chosen, options.results)
        for cell in make_cells(matrix, options.results):  # the report shows all of them
            cell.read()
    except (ValueError, OSError, ImportError, gymnasium.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.here:
        (cell,) = cells
        other = compute(cell, options.data, options.device)
        print("done" if other is None else f"left to {other}")
        return 0
    failed = []
    if not options.report:
        common = ["--results", str(options.results), "--data", str(options.data), "--device", options.device]
        command = [sys.executable, script, str(options.matrix), *common, "--here"]
        failed = run_cells(cells, command, options.workers, ROOT / "logs" / "compare" / matrix.name)
    print(write_report(matrix, options.results, options.docs))
    if failed:
        print(f"{len(failed)} cells failed: {', '.join(cell.name for cell in failed)}", file=sys.stderr)
    return int(bool(failed))

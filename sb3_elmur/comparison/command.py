"""The command ``sb3-elmur compare``."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stable_baselines3.common.utils import get_device

import sb3_elmur.envs  # noqa: F401, registers environments
from sb3_elmur.command_line import SettingsError, check_device, told_in_one_line
from sb3_elmur.comparison.cells import make_cells
from sb3_elmur.comparison.matrix import read_matrix, select
from sb3_elmur.comparison.report import write_report
from sb3_elmur.comparison.runner import Cluster, run_cells


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="sb3-elmur compare",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compare agents: environments x agents x seeds from one YAML file; tables, figures and a results page.\n"
        "Finished cells are not repeated: the command goes on where it was interrupted.",
        epilog="examples:\n"
        "  sb3-elmur compare my_matrix.yml --workers 4\n"
        "  sb3-elmur compare my_matrix.yml --only-envs TMazePassive30-v0 --seeds 0\n"
        "  sb3-elmur compare my_matrix.yml --report",
    )
    parser.add_argument("matrix", type=Path, help="YAML file; its key `packages` names packages that register environments")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: %(default)s)")
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="run on the workers of this Dask scheduler, such as tcp://head:8786"
    )
    parser.add_argument("--only-envs", nargs="+", metavar="ID", help="run these environments alone")
    parser.add_argument("--only-agents", nargs="+", metavar="NAME", help="run these agents alone")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="run these seeds alone")
    parser.add_argument("--report", action="store_true", help="only report what is there")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="FOLDER",
        help="where results go, in a folder of the matrix's name (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--pages", type=Path, metavar="FOLDER", help="where the page goes (default: the folder of results)")
    parser.add_argument(
        "--data", type=Path, default=Path(tempfile.gettempdir()) / "sb3-elmur-demonstrations", metavar="FOLDER",
        help="where demonstrations are recorded, once (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where networks are trained (default: %(default)s)")
    return parser


@told_in_one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run what a matrix lacks, and write its report.

    :param arguments: Command line; ``None`` means that of the process.
    """
    options = make_parser().parse_args(arguments)
    if options.workers < 1:
        raise SettingsError(f"`--workers` must be at least 1. Received {options.workers}.")
    check_device(options.device)
    device = get_device("auto").type if options.device == "auto" else options.device
    matrix = read_matrix(options.matrix)
    chosen = select(matrix, options.only_envs, options.only_agents, options.seeds)
    cells = make_cells(chosen, options.results)
    present = [cell.read() for cell in make_cells(matrix, options.results)]  # all of which the report shows
    if options.report and not any(present):
        raise SettingsError(
            f"`--results` must be the folder in which {matrix.name} has results. Received {str(options.results)!r}."
        )
    failed = []
    try:
        if not options.report:
            cluster = Cluster(options.cluster, matrix.resources) if options.cluster else None
            failed = run_cells(cells, options.data, options.workers, matrix.packages, device, cluster)
        print(write_report(matrix, options.results, options.pages or options.results))
    except KeyboardInterrupt:
        sys.exit("Interrupted. What is finished stays; the same command goes on.")
    if failed:
        sys.exit(f"{len(failed)} cells failed: {', '.join(cell.name for cell in failed)}")

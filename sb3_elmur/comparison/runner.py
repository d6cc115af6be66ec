"""Cells in processes of their own, on this machine or a cluster, whose results this process writes."""

import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from gymnasium.error import DependencyNotInstalled

try:
    from joblib import Parallel, delayed, parallel_config  # type: ignore[import-untyped]
except ImportError as error:
    raise DependencyNotInstalled('joblib is missing: run `pip install "sb3-elmur[compare]"`.') from error

from sb3_elmur.command_line import import_packages
from sb3_elmur.comparison.cells import Cell, compute, data_folder, record_data
from sb3_elmur.extras import require

N_LAST_LINES = 25
N_ATTEMPTS = 3  # until what was running whenever a process was killed is given up


class Cluster(NamedTuple):
    """
    Workers of Dask, of one thread each, on any machines.

    :param address: Of their scheduler.
    :param resources: What each cell needs of what workers offer, such as ``{"GPU": 1}``.
    """

    address: str
    resources: Mapping[str, float]


class Failure(NamedTuple):
    """
    What went wrong in a process.

    :param text: The last of what it printed, and its traceback.
    """

    text: str


def run_cells(
    cells: Sequence[Cell],
    data: Path,
    workers: int,
    packages: Sequence[str] = (),
    device: str = "cpu",
    cluster: Cluster | None = None,
) -> list[Cell]:
    """
    Compute the cells that have no result, and write each result when it is there.

    :param cells: All of them, in order.
    :param data: Folder of recorded demonstrations; missing ones are recorded first. All machines of a cluster see it.
    :param workers: Processes at a time.
    :param packages: Packages that register environments.
    :param device: Where networks are trained.
    :param cluster: Where cells are computed in place of this machine.
    :return: Cells that failed.
    """
    todo = [cell for cell in cells if cell.read() is None]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} of them finished.", flush=True)
    for cell in todo:  # before anything is computed that could not be written
        cell.path.parent.mkdir(parents=True, exist_ok=True)
    folders = {cell.path: data_folder(cell, data) for cell in todo}
    recordings = {
        folder: (record_data, cell.env.env_id, cell.demonstrations, folder)
        for cell in todo
        if (folder := folders[cell.path]) is not None
    }
    lost = set()
    for folder, outcome in run(recordings, workers, packages, cluster):
        if isinstance(outcome, Failure):
            lost.add(folder)
            _tell(f"demonstrations in {folder}", outcome)
    waiting = {cell.path: cell for cell in todo if folders[cell.path] not in lost}
    failed = [cell for cell in todo if cell.path not in waiting]
    jobs = {path: (compute, cell, folders[path], device) for path, cell in waiting.items()}
    for path, outcome in run(jobs, workers, packages, cluster):
        cell = waiting[path]
        if isinstance(outcome, Failure):
            failed.append(cell)
            _tell(cell.name, outcome)
        else:
            cell.write(outcome)
            print(f"{cell.name}: done", flush=True)
    return failed


def run(
    jobs: Mapping[Any, tuple[Any, ...]], workers: int, packages: Sequence[str] = (), cluster: Cluster | None = None
) -> Iterator[tuple[Any, Any]]:
    """
    Call functions in processes. Where a process is killed, what was not finished is tried again.

    :param jobs: Function and arguments, by key.
    :param workers: Processes at a time; 1 is this process.
    :param packages: Packages that are imported first.
    :param cluster: Whose workers call them in place of processes of this machine.
    :return: Keys and what the functions returned, or a :class:`Failure`, as they come.
    """
    left = dict(jobs)
    for _ in range(N_ATTEMPTS):
        calls = [delayed(_call)(key, Path.cwd(), packages, *job) for key, job in left.items()]
        try:
            with _parallel(workers, cluster) as parallel:
                for key, outcome in parallel(calls) if calls else ():
                    left.pop(key)
                    yield key, outcome
            return
        except BrokenProcessPool:
            print("A process was killed: what it had not finished is tried again.", file=sys.stderr, flush=True)
    for key in left:
        yield key, Failure(f"its process was killed {N_ATTEMPTS} times")


@contextmanager
def _parallel(workers: int, cluster: Cluster | None) -> Iterator[Parallel]:
    if cluster is None:
        yield Parallel(workers, backend="loky", batch_size=1, return_as="generator_unordered")
        return
    dask = require("distributed", "cluster")
    with dask.Client(cluster.address) as client, parallel_config("dask", client=client, resources=dict(cluster.resources)):
        try:
            yield Parallel(batch_size=1, pre_dispatch="all", return_as="generator_unordered")
        except dask.scheduler.KilledWorker as error:  # Dask has tried a job again several times
            raise BrokenProcessPool(str(error)) from error


def _call(key: Any, folder: Path, packages: Sequence[str], function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    output = io.StringIO()
    if folder.is_dir():  # perhaps not, on another machine
        os.chdir(folder)  # a worker may have begun elsewhere
    with redirect_stdout(output), redirect_stderr(output):
        try:
            import_packages(packages)
            return key, function(*arguments)
        except Exception:  # told by the process that reads it
            return key, Failure(output.getvalue() + traceback.format_exc())


def _tell(name: str, failure: Failure) -> None:
    last = "\n".join(f"    {line}" for line in failure.text.splitlines()[-N_LAST_LINES:])
    print(f"{name}: failed.\n{last}", file=sys.stderr, flush=True)

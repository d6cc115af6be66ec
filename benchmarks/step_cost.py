"""Cost of ``ElmurPolicy.step`` against the length of one never-ending episode: time per step, and process memory.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/step_cost.py

writes ``benchmarks/results/step_cost.json``. Each power of ten has a window of steps around it that are timed one by one.
A batch whose next power of ten would take more than ``--seconds`` stops before it, and the result says so.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import RESULTS, markdown_table, provenance, write_json
from gymnasium import spaces
from training_speed import ELMUR

from sb3_elmur import ElmurPolicy

WINDOW = 1000  # steps at most; half of the power of ten on either side where that is less
WARM_UP = 100


def window(length: int) -> range:
    """Return the timed steps around a length."""
    half = min(WINDOW, length) // 2
    return range(length - half, length + half)


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(policy: ElmurPolicy, batch: int, longest: int, seconds: float) -> dict[str, Any]:
    """Run one episode and time the steps around each power of ten.

    :param policy: policy to step
    :param batch: number of environments
    :param longest: the last power of ten
    :param seconds: stop before a power of ten that would take longer
    :return: results by episode length, and why lengths are missing, if any are
    """
    observation = np.full((batch, 4), 0.5, dtype=np.float32)
    state = None
    for _ in range(WARM_UP):
        _, state = policy.step(observation, state)
    state, taken, length = None, 0, 100
    results: dict[str, dict[str, float]] = {}
    start = time.perf_counter()
    while length <= longest:
        timed = window(length)
        while taken < timed.start:
            _, state = policy.step(observation, state)
            taken += 1
        durations = np.empty(len(timed))
        for i in range(len(timed)):
            before = time.perf_counter()
            _, state = policy.step(observation, state)
            durations[i] = time.perf_counter() - before
        taken = timed.stop
        low, median, high = (1e6 * np.percentile(durations, (10, 50, 90))).round(1).tolist()
        micro = {"median_us": median, "percentile_10_us": low, "percentile_90_us": high}
        results[str(length)] = micro | {"resident_bytes": resident_bytes()}
        length *= 10
        expected = length * (time.perf_counter() - start) / taken
        if length <= longest and expected > seconds:
            reason = f"stopped: {length} steps would take about {expected:.0f} s, more than the allowed {seconds:.0f} s"
            return {"lengths": results, "note": reason}
    return {"lengths": results, "note": "complete"}


def main() -> None:
    """Measure both batch sizes, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 100])
    parser.add_argument("--longest", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=600.0, help="allowed for the episode of each batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "step_cost.json")
    args = parser.parse_args()
    th.set_num_threads(1)
    th.manual_seed(args.seed)

    policy = ElmurPolicy(spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(4), lambda _: 0.0, **ELMUR)
    results = {batch: measure(policy, batch, args.longest, args.seconds) for batch in args.batches}
    rows = [
        [
            batch,
            int(length),
            cost["median_us"],
            cost["percentile_10_us"],
            cost["percentile_90_us"],
            cost["resident_bytes"] >> 20,
        ]
        for batch, result in results.items()
        for length, cost in result["lengths"].items()
    ]
    print(markdown_table(["batch", "episode length", "median us/step", "10 %", "90 %", "resident MiB"], rows))
    print("\n".join(f"\nbatch {batch}: {result['note']}" for batch, result in results.items()))
    report = {
        "unit": "microseconds per step of the whole batch",
        **provenance(args.seed),
        "settings": dict(policy=ELMUR, window=WINDOW, longest=args.longest),
        "results": results,
    }
    write_json(args.output, report)


if __name__ == "__main__":
    main()

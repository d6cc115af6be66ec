"""
Cost of ``ElmurPolicy.step`` against the length of one never-ending episode: time per step, and process memory.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/step_cost.py

writes ``benchmarks/results/step_cost.json``. One episode is walked up to ``--walk`` steps and its states at the powers of ten
are kept; longer lengths are reached by moving the last state on in time by whole segments, which changes no number (a test
shows it). Then all states are stepped in turn, so that whatever else the machine does falls on all of them alike.
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
from sb3_elmur.core.memory import Memory
from sb3_elmur.core.states import ElmurState

ROUNDS, STEPS = 40, 50  # timed steps of each length: so many rounds of so many steps


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def states_by_length(policy: ElmurPolicy, batch: int, walk: int, longest: int) -> tuple[dict[int, ElmurState], list[int]]:
    """
    States after 100, 1,000, ... steps, and the process memory when the walked ones were reached.

    :param policy: policy to step
    :param batch: number of environments
    :param walk: the last power of ten that is walked to
    :param longest: the last power of ten
    """
    observation = np.full((batch, 4), 0.5, dtype=np.float32)
    state, taken, states, memory = None, 0, {}, []
    length = 100
    while length <= longest:
        if length <= walk:
            while taken < length:
                _, state = policy.step(observation, state)
                taken += 1
            memory.append(resident_bytes())
        else:
            assert state is not None
            segment = policy.config.segment_length
            shift = (length - taken) // segment * segment
            moved = Memory(state.memory.slots, state.memory.anchors + shift, state.memory.position + shift)
            state, taken = state._replace(memory=moved), taken + shift
        assert state is not None
        states[length] = state
        length *= 10
    return states, memory


def measure(policy: ElmurPolicy, batch: int, walk: int, longest: int) -> dict[str, Any]:
    """
    Time steps from the states of all lengths in turn.

    :return: microseconds per step by length, and the process memory along the walk
    """
    states, memory = states_by_length(policy, batch, walk, longest)
    observation = np.full((batch, 4), 0.5, dtype=np.float32)
    durations: dict[int, list[float]] = {length: [] for length in states}
    for _ in range(ROUNDS):
        for length, state in states.items():
            for _ in range(STEPS):
                before = time.perf_counter()
                _, state = policy.step(observation, state)
                durations[length].append(time.perf_counter() - before)
    lengths = {}
    for length, own in durations.items():
        low, median, high = (1e6 * np.percentile(own, (10, 50, 90))).round(1).tolist()
        lengths[str(length)] = {"median_us": median, "percentile_10_us": low, "percentile_90_us": high}
    return {"lengths": lengths, "resident_bytes_along_the_walk": memory}


def main() -> None:
    """Measure both batch sizes, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 100])
    parser.add_argument("--walk", type=int, default=100_000)
    parser.add_argument("--longest", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "step_cost.json")
    args = parser.parse_args()
    th.set_num_threads(1)
    th.manual_seed(args.seed)

    policy = ElmurPolicy(spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(4), lambda _: 0.0, **ELMUR)
    results = {batch: measure(policy, batch, args.walk, args.longest) for batch in args.batches}
    rows = [
        [batch, int(length), *cost.values()] for batch, result in results.items() for length, cost in result["lengths"].items()
    ]
    print(markdown_table(["batch", "episode length", "median us/step", "10 %", "90 %"], rows))
    for batch, result in results.items():
        print(f"\nbatch {batch}, resident MiB: {[bytes >> 20 for bytes in result['resident_bytes_along_the_walk']]}")
    report = {
        "unit": "microseconds per step of the whole batch",
        **provenance(args.seed),
        "settings": dict(policy=ELMUR, rounds=ROUNDS, steps=STEPS, walk=args.walk, longest=args.longest),
        "results": results,
    }
    write_json(args.output, report)


if __name__ == "__main__":
    main()

"""
Cost of the built-in memories: a step, and the update of a segment, at once and step by step.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/memory_costs.py

writes ``benchmarks/results/memory_costs.json``. Widths are those of ``matrices/memories.yml``, where all have about as many
parameters. Times are CPU time of one thread, medians over ``--rounds`` rounds, in each of which every memory has its turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from common import RESULTS, markdown_table, provenance, write_json
from torch import Tensor

from sb3_elmur.core import ElmurConfig, MemoryCore
from sb3_elmur.core.registry import make_core

ROWS, LENGTH = 16, 64  # episodes of an update, and their steps, which are one segment
ELMUR = {"d_model": 64, "blend": "gated"}  # as RecurrentPPO has it


def make_cores() -> dict[str, MemoryCore]:
    """The memories that the matrix compares, by name."""
    agents = yaml.safe_load((Path(__file__).parent / "matrices" / "memories.yml").read_text())["agents"]
    settings = {name: ELMUR | agent.get("policy_kwargs", {}) for name, agent in agents.items()}
    return {name: make_core(ElmurConfig(segment_length=LENGTH, **kwargs)) for name, kwargs in settings.items()}


def act(core: MemoryCore, rows: int) -> Callable[[], None]:
    """A function that runs one step of ``rows`` episodes, without gradients."""
    x, starts = th.randn(rows, core.config.d_model), th.zeros(rows, dtype=th.bool)
    state = core.initial_state(rows)

    @th.no_grad()
    def run() -> None:
        nonlocal state
        _, state = core.step(x, state, starts, inplace=True)

    return run


def at_once(core: MemoryCore, x: Tensor) -> Tensor:
    """Outputs of one segment, whose memory is written in the end."""
    return core.segment(x, core.initial_memory(ROWS), th.full((ROWS,), LENGTH))[0]


def by_steps(core: MemoryCore, x: Tensor) -> Tensor:
    """The same, step by step."""
    state, outputs = core.initial_state(ROWS), []
    for token in x.unbind(1):
        y, state = core.step(token, state, th.zeros(ROWS, dtype=th.bool))
        outputs.append(y)
    return th.stack(outputs, dim=1)


def update(core: MemoryCore, run: Callable[[MemoryCore, Tensor], Tensor]) -> Callable[[], None]:
    """A function that runs a segment of all episodes, and its gradients."""
    x = th.randn(ROWS, LENGTH, core.config.d_model)
    return lambda: run(core, x).square().mean().backward()


def measure(rounds: int) -> dict[str, dict[str, Any]]:
    """Parameters, size of the memory and times of all memories."""
    cores = make_cores()
    jobs = {
        name: {
            "step of 1 row, us": (act(core, 1), 64),
            "step of 64 rows, us": (act(core, 64), 64),
            "update at once, us": (update(core, at_once), 1),
            "update by steps, us": (update(core, by_steps), 1),
        }
        for name, core in cores.items()
    }
    times: dict[str, dict[str, list[float]]] = {name: {key: [] for key in jobs[name]} for name in cores}
    for _ in range(rounds + 1):
        for name, measured in jobs.items():
            for key, (run, repeats) in measured.items():
                start = time.process_time()
                for _ in range(repeats):
                    run()
                times[name][key].append((time.process_time() - start) / repeats * 1e6)
    return {
        name: {
            "d_model": core.config.d_model,
            "parameters": sum(weight.numel() for weight in core.parameters()),
            "memory, numbers": core.initial_memory(1).slots.numel(),
            **{key: round(float(np.median(values[1:])), 1) for key, values in times[name].items()},  # the first warms up
        }
        for name, core in cores.items()
    }


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=RESULTS / "memory_costs.json")
    options = parser.parse_args()
    th.set_num_threads(1)
    th.manual_seed(0)
    results = measure(options.rounds)
    settings = {"rows": ROWS, "length": LENGTH, "rounds": options.rounds}
    write_json(options.output, {"settings": settings, "results": results, **provenance(0)})
    header = ["", *next(iter(results.values()))]
    print(markdown_table(header, [[name, *(f"{value:,.0f}" for value in row.values())] for name, row in results.items()]))


if __name__ == "__main__":
    main()

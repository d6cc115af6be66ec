"""
What steps and updates cost: against the length of an episode, and against the number of segments per chain.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/step_cost.py

writes ``benchmarks/results/step_cost.json``, the time of ``ElmurPolicy.step`` and process memory against the length of one
never-ending episode; ``benchmarks/results/update_cost.json``, CPU time and dispatcher calls (operations that PyTorch
launches, views included) of training with the defaults; and ``benchmarks/results/compiled_step.json``, CPU time of a compiled
step of training, and of compiling it in two processes, one after the other. ``--parts`` chooses.

One episode is walked up to ``--walk`` steps and its states at the powers of ten are kept; longer lengths are reached by moving
the last state on in time by whole segments, which changes no number (a test shows it). Then all states are stepped in turn, so
that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import RESULTS, markdown_table, provenance, write_json
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from torch.utils._python_dispatch import TorchDispatchMode
from training_speed import ELMUR

from sb3_elmur import ElmurPolicy, RecurrentPPO
from sb3_elmur.core.memory import Memory
from sb3_elmur.core.states import ElmurState
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.training.compiling import LONG, compile_rollouts
from sb3_elmur.training.trust_region import rollout_kl

PARTS = ("length", "updates", "compiled")
ROUNDS, STEPS = 40, 50  # timed steps of each length: so many rounds of so many steps
SEGMENTS, N_ENVS, CALLS = (1, 3, 8), (1, 8, 16), 32
UPDATED = (8, 64, 128)  # environments of the rollouts on which updates are timed


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


class CountCalls(TorchDispatchMode):
    """While it lasts, counts the operations that PyTorch launches."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return function(*args, **(kwargs or {}))


def take_turns(functions: dict[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, dict[str, float]]:
    """
    Count calls of functions and time them in turn.

    :param functions: By name.
    :param rounds: How often each has its turn.
    :param calls: Calls of one turn.
    :return: Of each the dispatcher calls and the CPU milliseconds of one call.
    """
    counts: dict[str, int] = {}
    for name, function in functions.items():
        function()
        with CountCalls() as counter:
            for _ in range(calls):
                function()
        counts[name] = counter.calls
    times = time_in_turn(functions, rounds, calls)
    return {name: {"dispatcher_calls": round(counts[name] / calls, 1)} | own for name, own in times.items()}


def time_in_turn(functions: dict[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """
    Time functions in turn, so that whatever else the machine does falls on all of them alike.

    :return: Of each the CPU milliseconds of one call.
    """
    durations: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            before = time.process_time()
            for _ in range(calls):
                function()
            durations[name].append(1e3 * (time.process_time() - before) / calls)
    return {
        name: {"cpu_ms": round(statistics.median(own), 3), "least_cpu_ms": round(min(own), 3)}
        for name, own in durations.items()
    }


def trained(bptt_segments: int, n_envs: int, seed: int) -> RecurrentPPO:
    """A model with the defaults after its first rollout and update, in T-Mazes of 1,000 steps."""
    model = RecurrentPPO(
        "ElmurPolicy", TMazeVecEnv(n_envs, length=1000), bptt_segments=bptt_segments, learning_rate=1e-9, seed=seed
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.learn(model.n_steps * n_envs)
    return model


def measure_updates(rounds: int, seed: int) -> dict[str, dict[str, float]]:
    """Cost of an update, and of its parts, by number of environments, and so size of minibatches, and segments per chain."""
    functions: dict[str, Callable[[], object]] = {}
    for n_envs, segments in itertools.product(UPDATED, SEGMENTS):
        model = trained(segments, n_envs, seed)
        functions[f"update, {n_envs} environments, {segments} segments per chain"] = model.train
    model = trained(SEGMENTS[-1], UPDATED[0], seed)
    functions["trust region: one replay of the rollout"] = lambda: rollout_kl(model)
    return take_turns(functions, rounds)


def measure_steps(rounds: int, seed: int) -> dict[str, dict[str, float]]:
    """Cost of a step of training, of ``predict`` and of ``step``, by number of environments."""
    functions: dict[str, Callable[[], object]] = {}
    for n_envs in N_ENVS:
        model = trained(8, n_envs, seed)
        functions |= step_functions(model, n_envs)
    return take_turns(functions, rounds, CALLS)


def compile_steps(seed: int) -> dict[str, float]:
    """Compile the rollout steps of 8 environments: seconds of wall time, and of CPU time of this process and its compilers."""
    model = trained(8, 8, seed)
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    compile_rollouts(model.policy, 8, 8 * LONG, print)
    return {"wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(sum(os.times()[:4]) - cpu, 1)}


def measure_compiled(rounds: int, seed: int) -> dict[str, Any]:
    """Cost of compiling a step of training in 8 environments, without and with PyTorch's files of it, and what it saves."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # the processes inherit it
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            first, again = pool.map(compile_steps, (seed, seed), chunksize=1)
        model, eager = trained(8, 8, seed), trained(8, 8, seed)
        compile_rollouts(model.policy, 8, 8 * LONG, print)
        name = "step of the rollout, 8 environments"
        functions = {name: step_functions(eager, 8)[name], f"{name}, compiled": step_functions(model, 8)[name]}
        return {"compiling": first, "compiling_again": again} | time_in_turn(functions, rounds, CALLS)


def step_functions(model: RecurrentPPO, n_envs: int) -> dict[str, Callable[[], object]]:
    """Functions that go on by one step each."""
    policy, observation = model.policy, model._last_obs
    starts = th.zeros(n_envs, dtype=th.bool)
    policy.set_training_mode(False)
    states: dict[str, Any] = {"predict": None, "step": None}

    @th.no_grad()
    def rollout() -> None:
        policy(th.as_tensor(observation), model.state, starts)

    def predict() -> None:
        _, states["predict"] = policy.predict(observation, states["predict"])

    def step() -> None:
        _, states["step"] = policy.step(observation, states["step"])

    named = {"step of the rollout": rollout, "predict": predict, "step": step}
    return {f"{name}, {n_envs} environments": function for name, function in named.items()}


def print_costs(costs: dict[str, dict[str, float]]) -> None:
    """Print what :func:`take_turns` returned."""
    print(
        markdown_table(["", "dispatcher calls", "median CPU ms", "least"], [[name, *c.values()] for name, c in costs.items()])
    )


def main() -> None:
    """Measure what is asked for, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 100])
    parser.add_argument("--walk", type=int, default=100_000)
    parser.add_argument("--longest", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=10, help="how often updates are timed")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    th.set_num_threads(1)
    th.manual_seed(args.seed)
    if "updates" in args.parts:
        costs = measure_updates(args.rounds, args.seed) | measure_steps(args.rounds, args.seed)
        print_costs(costs)
        report = {"load_average": os.getloadavg(), **provenance(args.seed), "rounds": args.rounds, "results": costs}
        write_json(args.output / "update_cost.json", report)
    if "compiled" in args.parts:
        costs = measure_compiled(args.rounds, args.seed)
        print(costs)
        report = {"load_average": os.getloadavg(), **provenance(args.seed), "rounds": args.rounds, "results": costs}
        write_json(args.output / "compiled_step.json", report)
    if "length" in args.parts:
        measure_lengths(args)


def measure_lengths(args: argparse.Namespace) -> None:
    """Measure both batch sizes, print the results and write them."""
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
    write_json(args.output / "step_cost.json", report)


if __name__ == "__main__":
    main()

"""
Exported policies beside their models: success in corridors of 10,000 steps, and the time of a step of one environment.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/deployment.py

clones the T-Maze's oracle in corridors of at most 30 steps, exports the model as ``sb3-elmur export`` does, and plays the same
corridors by ``predict`` and by the file. Latency is that of policies with random weights, in turn, on one thread, in CPU time:
where others use the core, a call that takes longer than the rest of its time slice would count their time, too. Writes
``benchmarks/results/deployment.json``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import RESULTS, markdown_table, provenance, write_json
from gymnasium import spaces
from tmaze_memory import EVALUATION_SEED, EXPERIMENTS, load_settings, record_data, train_bc

from sb3_elmur import ElmurPolicy, RecurrentPPO
from sb3_elmur.envs.tmaze import TMazeVecEnv
from sb3_elmur.export import export_policy
from sb3_elmur.export.checking import Session

SEED, LENGTH, EPISODES, N_EPOCHS = 0, 10_000, 100, 25
ROUNDS, STEPS = 40, 50  # timed steps of each way: so many rounds of so many steps
POLICIES: dict[str, dict[str, Any]] = {
    "ELMUR of the T-Maze": {"d_model": 64, "segment_length": 5, "memory_size": 2, "blend": "gated"},
    "ELMUR, default": {},
    "GRU, width 64": {"core": "gru", "d_model": 64},
    "LSTM, width 64": {"core": "lstm", "d_model": 64},
}

Act = Callable[[np.ndarray, np.ndarray, Any], tuple[np.ndarray, Any]]


def by_predict(policy: ElmurPolicy) -> Act:
    """Act by the model's ``predict``."""
    return lambda obs, starts, state: policy.predict(obs, state, starts, deterministic=True)


def by_step(policy: ElmurPolicy) -> Act:
    """Act by the model's ``step``."""
    return lambda obs, starts, state: policy.step(obs, state, starts, deterministic=True)


def by_file(path: Path) -> Act:
    """Act by an exported file."""
    session = Session(path)

    def act(obs: np.ndarray, starts: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        action, _, state = session.step(obs, starts, session.empty_state(len(obs)) if state is None else state)
        return action, state

    return act


def success(act: Act, length: int, n_episodes: int) -> np.ndarray:
    """Whether each episode ended at the right side of the junction, (n_episodes,)."""
    env = TMazeVecEnv(n_episodes, length=length)
    env.seed(EVALUATION_SEED)
    obs, state, starts = env.reset(), None, np.ones(n_episodes, dtype=bool)
    ended, successes = np.zeros(n_episodes, dtype=bool), np.zeros(n_episodes, dtype=bool)
    while not ended.all():
        actions, state = act(obs, starts, state)
        obs, _, starts, infos = env.step(actions)
        for row in (starts & ~ended).nonzero()[0]:
            ended[row], successes[row] = True, infos[row]["is_success"]
    return successes


def latency(settings: dict[str, Any], folder: Path) -> dict[str, float]:
    """Median microseconds of CPU time per step of one environment, by way of acting."""
    th.manual_seed(SEED)
    policy = ElmurPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(4), lambda _: 1e-3, **settings)
    policy.set_training_mode(False)
    export_policy(policy, folder / "latency.onnx")
    ways = {"predict": by_predict(policy), "step": by_step(policy), "onnxruntime": by_file(folder / "latency.onnx")}
    states: dict[str, Any] = dict.fromkeys(ways)
    durations: dict[str, list[float]] = {way: [] for way in ways}
    obs, starts = np.full((1, 4), 0.5, dtype=np.float32), np.zeros(1, dtype=bool)
    for _ in range(ROUNDS):
        for way, act in ways.items():
            for _ in range(STEPS):
                before = time.process_time()
                _, states[way] = act(obs, starts, states[way])
                durations[way].append(time.process_time() - before)
    return {way: round(1e6 * float(np.median(own)), 1) for way, own in durations.items()}


def train(folder: Path, n_epochs: int) -> RecurrentPPO:
    """Clone the oracle in corridors of at most 30 steps."""
    record_data(folder / "data")
    settings = load_settings(replace(EXPERIMENTS["bc_gated"], settings={"n_epochs": n_epochs}))
    return train_bc(settings, SEED, folder / "data", lambda model: None)


def main() -> None:
    """Measure, print the results and write them."""
    th.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times = {label: latency(settings, folder) for label, settings in POLICIES.items()}
        print(
            markdown_table(["policy", *next(iter(times.values()))], [[label, *own.values()] for label, own in times.items()])
        )
        model = train(folder, N_EPOCHS)
        start = time.perf_counter()
        export_policy(model.policy, folder / "policy.onnx")
        seconds, size = time.perf_counter() - start, (folder / "policy.onnx").stat().st_size
        by_model = success(by_predict(model.policy), LENGTH, EPISODES)
        by_onnx = success(by_file(folder / "policy.onnx"), LENGTH, EPISODES)
    corridors = {
        "length": LENGTH,
        "episodes": EPISODES,
        "success by predict": float(by_model.mean()),
        "success by the file": float(by_onnx.mean()),
        "episodes that end differently": int((by_model != by_onnx).sum()),
        "seconds of the export": round(seconds, 1),
        "bytes of the file": size,
    }
    print(corridors)
    report = {**provenance(SEED), "epochs": N_EPOCHS, "corridors": corridors, "median CPU microseconds per step": times}
    write_json(RESULTS / "deployment.json", report)


if __name__ == "__main__":
    main()

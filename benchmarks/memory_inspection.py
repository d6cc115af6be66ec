"""
Where a T-Maze agent keeps the cue over 1,000 steps, and what the callback says of one whose memory is made to fail.

    python benchmarks/memory_inspection.py

trains two agents with the settings of ``TMazePassive30-v0``, under ``MemoryCallback``: one as they are, one with hardly any
spread of the initial slots, a fixed blend and memory detached. Both are inspected in a corridor of 1,000 steps, with probes
for the cue from 100 episodes. Writes ``benchmarks/results/memory_inspection.json``.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from common import RESULTS, provenance, write_json
from tmaze_memory import EVALUATION_SEED, EXPERIMENTS, Experiment, load_settings, train_online

from sb3_elmur import MemoryCallback
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.inspection.episodes import inspect_episodes, play
from sb3_elmur.inspection.events import find_events, summarise_slots
from sb3_elmur.inspection.probing import make_label

SEED, LENGTH, EPISODES = 0, 1000, 100
CUE = 1  # component of the first observation
TRAINED = EXPERIMENTS["online_gated"]
AGENTS: dict[str, Experiment] = {
    "trained": TRAINED,
    "made to fail": replace(
        TRAINED,
        policy_kwargs={"blend": "fixed", "lru_blend": 0.5, "memory_init_std": 1e-6},
        settings={"n_timesteps": 100_000, "bptt_segments": 1},
    ),
}


def inspect(experiment: Experiment) -> dict[str, Any]:
    """Train an agent, and tell what was warned of, and what happened to the cue."""
    settings = load_settings(experiment)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = train_online(settings, SEED, MemoryCallback())
    seconds = time.process_time() - start
    env = make_batch("TMazePassive-v0", EPISODES, {"length": LENGTH})
    played = play(model.policy, env, EVALUATION_SEED, True)
    label = make_label("cue", played.observations[:, 0, CUE])
    inspection = inspect_episodes(model.policy, played, label)
    return {
        "settings": settings,
        "training CPU seconds": round(seconds, 1),
        "warnings": sorted({str(each.message) for each in caught if "memory" in str(each.message).lower()}),
        "success": float(np.mean([info["is_success"] for info in played.last_infos])),
        "chance of the probes": label.chance,
        "events": [event._asdict() for event in find_events(inspection, label)],
        "slots at the end": [summary._asdict() for summary in summarise_slots(inspection, label)],
    }


def main() -> None:
    """Inspect all agents."""
    th.set_num_threads(1)
    report = {"length": LENGTH, "episodes": EPISODES, **provenance(SEED)}
    for name, experiment in AGENTS.items():
        report[name] = inspect(experiment)
        print(name, {key: value for key, value in report[name].items() if key != "settings"}, flush=True)
    write_json(RESULTS / "memory_inspection.json", report)


if __name__ == "__main__":
    main()

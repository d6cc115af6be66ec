"""
Where an agent that solves mazes of runes combines what it holds with what it sees: linear probes of its slots.

    python benchmarks/runes_inspection.py

clones the oracle as ``blending.py`` does (gated, seed 0), and plays 300 episodes of 30 steps. After every segment, probes
decode three labels from each layer's slot: the first cue, what is held after all runes so far, and whether the number of
inversions is odd. Writes ``benchmarks/results/runes_inspection.json``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from capacity import EVALUATION_SEED, TASKS, Run, clone
from common import RESULTS, markdown_table, provenance, write_json

from sb3_elmur.envs.batch import make_batch
from sb3_elmur.envs.tmaze.runes import N_FIXED, Rune
from sb3_elmur.inspection.episodes import Played, inspect_episodes, play
from sb3_elmur.inspection.probing import make_label
from sb3_elmur.policies import ElmurPolicy

RUN = Run("runes", "gated", 1, 2, 0)
EPISODES, LENGTH = 300, 30
CUE = 1  # component of an observation


def labels(observations: np.ndarray) -> dict[str, np.ndarray]:
    """
    What slots may hold after each step, by name, each (B, T).

    :param observations: Of B episodes, (B, T, 8).
    """
    runes = observations[..., N_FIXED:] == 1  # (B, T, 4)
    cue = observations[..., CUE]
    held, odd = [cue[:, 0]], [np.zeros(len(cue), bool)]
    for time in range(1, observations.shape[1]):
        invert, cancel, replace = (runes[:, time, kind] for kind in (Rune.INVERT, Rune.CANCEL, Rune.REPLACE))
        value = np.where(invert, -held[-1], held[-1])
        held.append(np.select([cancel, replace], [0, cue[:, time]], value))
        odd.append(odd[-1] ^ invert)
    up = np.stack(held, axis=1) >= 0  # nothing held is answered as +1 is
    return {"first cue": np.broadcast_to(cue[:, :1], up.shape), "what is held": up, "inversions odd": np.stack(odd, axis=1)}


def probe_slots(policy: ElmurPolicy, played: Played) -> list[dict[str, Any]]:
    """After each whole segment, the accuracy of each label's probe by layer, and of guessing the most frequent value."""
    length, last = RUN.policy_kwargs["segment_length"], int(played.lengths.min())
    rows = []
    for segment in range(last // length):
        accuracies = {}
        for name, values in labels(played.observations[:, :last]).items():
            label = make_label(name, values[:, (segment + 1) * length - 1])
            accuracy = inspect_episodes(policy, played, label).accuracy[segment, :, 0]
            accuracies[name] = {"guess": round(label.chance, 3), "by layer": accuracy.round(3).tolist()}
        rows.append({"segment": segment} | accuracies)
    return rows


def main() -> None:
    """Train, play, probe."""
    th.set_num_threads(1)
    model, _ = clone(RUN)
    env = make_batch(TASKS[RUN.task].env_id, EPISODES, {"n_runes": RUN.k, "length": LENGTH})
    played = play(model.policy, env, EVALUATION_SEED, True)
    rows = probe_slots(model.policy, played)
    report = {
        "run": RUN._asdict(),
        "episodes": EPISODES,
        "success": float(np.mean([info["is_success"] for info in played.last_infos])),
        "probes": rows,
        **provenance(RUN.seed),
    }
    write_json(RESULTS / "runes_inspection.json", report)
    table = [
        [row["segment"], *(f"{value:.2f}" for name in rows[0] if name != "segment" for value in cells(row[name]))]
        for row in rows
    ]
    header = [f"{name}, {column}" for name in rows[0] if name != "segment" for column in ("guess", "layer 1", "layer 2")]
    print(report["success"])
    print(markdown_table(["after segment", *header], table))


def cells(accuracy: dict[str, Any]) -> list[float]:
    """What is guessed, and what each layer's slot says."""
    return [accuracy["guess"], *accuracy["by layer"]]


if __name__ == "__main__":
    main()

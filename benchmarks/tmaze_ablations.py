"""
Ablations of ELMUR on the T-Maze by behaviour cloning: blending, initial memory, slots, segments, and parts left out.

    python benchmarks/tmaze_ablations.py [--seeds 0 1 2] [--only "lambda 0.5" ...] [--workers 2]
    python benchmarks/tmaze_ablations.py --report

The base is the paper's setting in small: width 64, dense, L = 10, M = 2, lambda = 0.79, memory detached. Every run is a
process of its own and writes ``benchmarks/results/tmaze_ablations/<name>_<seed>.json``; runs whose file is there are not
repeated.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch as th
from common import RESULTS, markdown_table
from tmaze_memory import Experiment, command_line
from torch import Tensor

from sb3_elmur import RecurrentPPO
from sb3_elmur.core.memory import EMPTY

FOLDER = RESULTS / "tmaze_ablations"
BASE = {"blend": "fixed", "lru_blend": 0.79, "segment_length": 10, "memory_size": 2}
LONGEST = 1_000


def ablation(**policy_kwargs: Any) -> Experiment:
    """The base with other policy arguments."""
    settings = {"bptt_segments": 1, "n_epochs": 10}
    return Experiment("bc", policy_kwargs=BASE | policy_kwargs, settings=settings, longest=LONGEST)


EXPERIMENTS = {
    "base": ablation(),
    **{f"lambda {value}": ablation(lru_blend=value) for value in (0.0, 0.05, 0.1, 0.2, 0.45, 0.5, 0.7, 0.9, 1.0)},
    **{f"sigma {value}": ablation(memory_init_std=value) for value in (0.0, 0.001, 0.01, 0.5, 1.0)},
    **{f"M {value}": ablation(memory_size=value) for value in (1, 3, 4, 8)},
    **{f"L {value}": ablation(segment_length=value) for value in (3, 5, 15, 30)},
    "no relative bias": ablation(),
    "no LRU": ablation(),
    "MoE": ablation(ffn="moe", n_routed_experts=2, n_shared_experts=2, top_k=3, routed_d_ff=32, shared_d_ff=64),
    "three segments": Experiment("bc", policy_kwargs=BASE, settings={"bptt_segments": 3, "n_epochs": 10}, longest=LONGEST),
}


def first_slot(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """The first slot instead of the least recently written one, and whether it is empty, each (B,)."""
    return th.zeros_like(anchors[:, 0]), anchors[:, 0] == EMPTY


def leave_out(name: str, model: RecurrentPPO) -> None:
    """Leave out of a model what no policy argument switches off."""
    if name == "no relative bias":  # its table begins at zero
        for layer in model.policy.backbone.core.layers:
            layer.relative_bias.requires_grad_(False)
    if name == "no LRU":  # always the first slot
        model.policy.backbone.core.choose_slot = first_slot


def report() -> None:
    """Print a table of all results."""
    rows = []
    for name in EXPERIMENTS:
        runs = [json.loads(path.read_text()) for path in sorted(FOLDER.glob(f"{name}_[0-9]*.json"))]
        if runs:
            columns = list(runs[0]["success"])
            values = np.array([list(run["success"].values()) for run in runs])
            means, worst = values.mean(0), values.min(0)
            rows.append([name, len(runs), *(f"{mean:.2f} ({low:.2f})" for mean, low in zip(means, worst, strict=True))])
    if rows:
        print(markdown_table(["mean (worst seed)", "seeds", *columns], rows))


if __name__ == "__main__":
    command_line(__doc__, __file__, EXPERIMENTS, FOLDER, report, leave_out)

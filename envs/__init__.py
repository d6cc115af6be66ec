"""Memory environments; importing this package registers their ids with Gymnasium."""

import itertools
from typing import Any

import gymnasium

from .mikasa import TASKS as MIKASA_TASKS
from .mikasa import MikasaEnv, MikasaVecEnv
from .popgym import TASKS, POPGymEnv, POPGymVecEnv
from .tmaze import (
    TMazeConfig,
    TMazeCuesConfig,
    TMazeCuesEnv,
    TMazeCuesVecEnv,
    TMazeEnv,
    TMazeRunesConfig,
    TMazeRunesEnv,
    TMazeRunesVecEnv,
    TMazeVecEnv,
)

__all__ = [
    "MikasaEnv", "MikasaVecEnv", "POPGymEnv", "POPGymVecEnv", "TMazeConfig", "TMazeCuesConfig", "TMazeCuesEnv",
    "TMazeCuesVecEnv", "TMazeEnv", "TMazeRunesConfig", "TMazeRunesEnv", "TMazeRunesVecEnv", "TMazeVecEnv", "register_envs",
]  # fmt: skip

PASSIVE_LENGTHS = (10, 30, 100, 300, 1000, 3000, 10_000, 100_000, 1_000_000)
ACTIVE_LENGTHS = (10, 30, 100, 300, 1000)
CUES = (1, 2, 4, 8, 16)
CUE_LENGTHS = (30, 60, 100, 300, 1000, 3000, 10_000, 100_000, 1_000_000)
RUNES = (1, 2, 4, 8)
ENDLESS_SIZES = tuple((n_corridors, length) for n_corridors in (3, 10) for length in (10, 30, 100, 300, 1000))


def register_envs() -> None:
    """Register the ids that Gymnasium does not know yet; each environment ends itself, so none has a time limit."""
    mazes: dict[str, dict[str, Any]] = {
        "TMazePassive-v0": {},
        "TMazeActive-v0": {"active": True},
        "TMazeEndless-v0": {"n_corridors": 3},
    }
    mazes |= {f"TMazePassive{length}-v0": {"length": length} for length in PASSIVE_LENGTHS}
    mazes |= {f"TMazeActive{length}-v0": {"length": length, "active": True} for length in ACTIVE_LENGTHS}
    mazes |= {f"TMazeEndless{n}x{length}-v0": {"length": length, "n_corridors": n} for n, length in ENDLESS_SIZES}
    cues: dict[str, dict[str, Any]] = {"TMazeCues-v0": {}, "TMazeToldCues-v0": {"order": "told"}}
    for n, length in itertools.product(CUES, CUE_LENGTHS):
        if length >= 3 * n:  # each of n corridors needs a cell, a turn, and a step in which its cue is shown
            arguments = {"n_cues": n, "length": length}
            cues |= {
                f"TMazeCues{n}x{length}-v0": arguments,
                f"TMazeToldCues{n}x{length}-v0": arguments | {"order": "told"},
            }
    runes: dict[str, dict[str, Any]] = {"TMazeRunes-v0": {}}
    runes |= {f"TMazeRunes{n}x{length}-v0": {"n_runes": n, "length": length} for n in RUNES for length in CUE_LENGTHS}
    tasks = {f"POPGym{task}-v0": {"task": task} for task in TASKS}
    robots = {f"Mikasa{task}-v0": {"task": task} for task in MIKASA_TASKS}
    families = {
        "tmaze:TMazeEnv": mazes,
        "tmaze:TMazeCuesEnv": cues,
        "tmaze:TMazeRunesEnv": runes,
        "popgym:POPGymEnv": tasks,
        "mikasa:MikasaEnv": robots,
    }
    for entry_point, ids in families.items():
        for env_id, kwargs in ids.items():
            if env_id not in gymnasium.registry:
                gymnasium.register(id=env_id, entry_point=f"{__name__}.{entry_point}", kwargs=kwargs)


register_envs()

"""All ways to obtain an agent."""

from __future__ import annotations

import sb3_contrib
import stable_baselines3

import sb3_elmur
from compare.algorithm import Algorithm
from compare.cloning import Cloning
from compare.online import Online
from compare.scripted import Scripted

SCRIPTED: dict[str, Algorithm] = {"oracle": Scripted("oracle"), "random": Scripted("random")}
ALGORITHMS: dict[str, dict[str, Algorithm]] = {  # by the kind of a matrix; the first is what agents use who name none
    "online": {
        "ppo_elmur": Online(sb3_elmur.RecurrentPPO, "ppo_elmur.yml"),
        "ppo_lstm": Online(sb3_contrib.RecurrentPPO, "ppo_lstm.yml"),
        "ppo": Online(stable_baselines3.PPO, "ppo_elmur.yml", {"policy": "MlpPolicy"}),
        **SCRIPTED,
    },
    "bc": {"bc_elmur": Cloning(), **SCRIPTED},
}

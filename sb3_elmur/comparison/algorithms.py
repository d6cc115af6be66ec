"""All ways to obtain an agent."""

import sb3_contrib
import stable_baselines3

from sb3_elmur.comparison.algorithm import Algorithm
from sb3_elmur.comparison.cloning import Cloning
from sb3_elmur.comparison.online import Online
from sb3_elmur.comparison.recipe import RECIPE
from sb3_elmur.comparison.scripted import Scripted
from sb3_elmur.ppo import RecurrentPPO

SCRIPTED: dict[str, Algorithm] = {"oracle": Scripted("oracle"), "random": Scripted("random")}
ALGORITHMS: dict[str, dict[str, Algorithm]] = {  # by the kind of a matrix; the first is what agents use who name none
    "online": {
        "ppo_elmur": Online(RecurrentPPO, "ppo_elmur.yml"),
        "ppo_lstm": Online(sb3_contrib.RecurrentPPO, "ppo_lstm.yml"),
        "ppo": Online(stable_baselines3.PPO, "ppo_elmur.yml", {"policy": "MlpPolicy"}, RECIPE),
        **SCRIPTED,
    },
    "bc": {"bc_elmur": Cloning(), **SCRIPTED},
}

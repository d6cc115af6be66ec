"""The defaults of :class:`sb3_elmur.RecurrentPPO`, by which PPO without memory is trained, too."""

from typing import Any

RECIPE: dict[str, Any] = {"learning_rate": "lin_1e-3", "n_steps": 128, "n_epochs": 4, "ent_coef": 0.01}

"""Action masks in the zoo: its evaluations, ``enjoy`` and ``record_video`` take those of environments that have any."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from rl_zoo3 import ALGOS
from rl_zoo3.callbacks import TrialEvalCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_elmur.callbacks import MaskableEvalCallback
from sb3_elmur.ppo import RecurrentPPO
from sb3_elmur.zoo.substitutes import MakeEnv, environments_made_by


class MaskableTrialEvalCallback(MaskableEvalCallback, TrialEvalCallback):
    """Evaluates the trials of a search, with masks."""


@contextmanager
def masks_taken(algorithm: str) -> Iterator[None]:
    """
    While it lasts, models that rl_zoo3 loads act with the masks of the environment that it made last.

    :param algorithm: The zoo's name of the models.
    """
    made: list[VecEnv] = []

    def remember(create: MakeEnv) -> MakeEnv:
        def make(*arguments: Any, **named: Any) -> VecEnv:
            made.append(create(*arguments, **named))
            return made[-1]

        return make

    class MaskedRecurrentPPO(ALGOS[algorithm]):  # type: ignore[misc, valid-type]
        """The algorithm, whose models act with masks."""

        @classmethod
        def load(cls, *arguments: Any, **named: Any) -> RecurrentPPO:
            """Load a model."""
            model = super().load(*arguments, **named)
            stack.enter_context(model.masked_by(made[-1]))
            return model

    with ExitStack() as stack, patch.dict(ALGOS, {algorithm: MaskedRecurrentPPO}), environments_made_by(remember):
        yield

"""Action masks in the zoo: its evaluations, ``enjoy`` and ``record_video`` take those of environments that have any."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from rl_zoo3.callbacks import TrialEvalCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_elmur.callbacks import MaskableEvalCallback
from sb3_elmur.ppo import RecurrentPPO


class MaskableTrialEvalCallback(MaskableEvalCallback, TrialEvalCallback):
    """Evaluates the trials of a search, with masks."""


@contextmanager
def masks_taken(algorithm: str) -> Iterator[None]:
    """
    While it lasts, models that rl_zoo3 loads act with the masks of the environment that it made last.

    :param algorithm: The zoo's name of the models.
    """
    places: list[Any] = [import_module("rl_zoo3"), import_module("rl_zoo3.utils")]
    originals, known = [place.create_test_env for place in places], places[0].ALGOS[algorithm]
    made: list[VecEnv] = []

    class MaskedRecurrentPPO(known):  # type: ignore[misc, valid-type]
        """The algorithm, whose models act with masks."""

        @classmethod
        def load(cls, *arguments: Any, **named: Any) -> RecurrentPPO:
            """Load a model."""
            model = super().load(*arguments, **named)
            stack.enter_context(model.masked_by(made[-1]))
            return model

    for place, original in zip(places, originals, strict=True):

        def create(*arguments: Any, original: Any = original, **named: Any) -> VecEnv:
            made.append(original(*arguments, **named))
            return made[-1]

        place.create_test_env = create
    places[0].ALGOS[algorithm] = MaskedRecurrentPPO
    try:
        with ExitStack() as stack:
            yield
    finally:
        places[0].ALGOS[algorithm] = known
        for place, original in zip(places, originals, strict=True):
            place.create_test_env = original

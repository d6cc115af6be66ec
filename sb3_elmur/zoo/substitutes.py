"""What rl_zoo3's scripts take in place of the environments that they make."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from unittest.mock import patch

from stable_baselines3.common.vec_env import VecEnv

MakeEnv = Callable[..., VecEnv]


@contextmanager
def environments_made_by(change: Callable[[MakeEnv], MakeEnv]) -> Iterator[None]:
    """
    While it lasts, rl_zoo3 makes the environments in which agents are shown by a changed ``create_test_env``.

    :param change: From that function to the one in its place.
    """
    with ExitStack() as stack:
        for place in map(import_module, ("rl_zoo3", "rl_zoo3.utils")):  # its scripts import it from either
            stack.enter_context(patch.object(place, "create_test_env", change(place.create_test_env)))
        yield

"""Which memory cores there are, by name, and how those of others are found."""

import inspect
from importlib import import_module

from sb3_elmur.core.base import MemoryCore
from sb3_elmur.core.cells import GRU, LSTM
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.ffm import FFM
from sb3_elmur.core.gtrxl import GTrXL
from sb3_elmur.core.mingru import MinGRU
from sb3_elmur.core.shm import SHM

CORES: dict[str, type[MemoryCore]] = {
    "elmur": Elmur,
    "gru": GRU,
    "lstm": LSTM,
    "mingru": MinGRU,
    "ffm": FFM,
    "shm": SHM,
    "gtrxl": GTrXL,
}
"""Those of :data:`sb3_elmur.core.config.CORE_NAMES`."""


def find_core(core: str | type) -> type[MemoryCore]:
    """
    The class of a memory core; nothing is called to find out.

    :param core: A name in :data:`CORES`, a class, or ``"package.module:Class"``.
    :return: The class.
    :raises ValueError: If it is no subclass of :class:`sb3_elmur.core.base.MemoryCore` that can be built.
    :raises ModuleNotFoundError: If the module is there, but not what it imports.
    """
    found = core if isinstance(core, type) else CORES.get(core) or _imported(core)
    if not (isinstance(found, type) and issubclass(found, MemoryCore)):
        raise ValueError(f"`core` must be a subclass of sb3_elmur.core.RecurrentCore or of MemoryCore. Received {core!r}.")
    if missing := getattr(found, "__abstractmethods__", None):
        names = ", ".join(f"`{name}`" for name in sorted(missing))
        raise ValueError(f"`core` must be a class with {names}. Received {core!r}, which lacks it.")
    return found


def make_core(config: ElmurConfig) -> MemoryCore:
    """
    Build the memory core that ``config.core`` says.

    :param config: Its hyper-parameters.
    :return: The core.
    :raises ValueError: If there is none, or it does not take ``config.core_kwargs``.
    """
    cls = find_core(config.core)
    arguments = config.core_kwargs or {}
    _, *parameters = inspect.signature(cls).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        known = [parameter.name for parameter in parameters]
        for name in arguments:
            if name not in known:
                allowed = ", ".join(known) or "nothing"
                raise ValueError(f"`core_kwargs` of {cls.__name__} may name {allowed}. Received {name!r}.")
    return cls(config, **arguments)


def _imported(path: str) -> object:
    """What ``"package.module:Class"`` names, or ``None`` if there is none."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"`core` must name a module that can be imported. There is no {error.name!r} for {path!r}. "
            "Commands search the current folder for what `--gym-packages` names."
        ) from error

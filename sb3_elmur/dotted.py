"""Classes by their dotted paths, as YAML files and command lines name them."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

CLASS_ENDINGS = ("_class", "_fn")  # of arguments of a policy that are classes


def find_class(path: str) -> type | None:
    """
    The class of a dotted path, or None if there is none.

    :param path: Such as ``"sb3_elmur.encoders.FourLayerExtractor"``.
    :raises ModuleNotFoundError: If the module is there, but not what it imports.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None) if module else None
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        return None
    return found if isinstance(found, type) else None


def with_classes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Arguments of a policy, with classes in place of their dotted paths.

    :param arguments: Values by name; those of names that end in ``_class`` or ``_fn`` may be paths.
    :raises ValueError: If there is no class of such a path.
    """
    found = dict(arguments)
    for name, value in arguments.items():
        if name.endswith(CLASS_ENDINGS) and isinstance(value, str):
            found[name] = find_class(value)
            if found[name] is None:
                raise ValueError(f"`{name}` must be the dotted path of a class. Received {value!r}.")
    return found

"""Models of what is read from files, by pydantic in strict mode, whose errors name the key, the value and what is allowed."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

__all__ = ["Field", "Model", "model_validator", "read"]

T = TypeVar("T")


class Model(BaseModel):
    """A mapping with these keys and no others, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def read(kind: type[T], where: str, value: object) -> T:
    """
    Make a model of what a file holds.

    :param kind: The model, or another type.
    :param where: What the value is, for messages.
    :param value: Of the file.
    :return: The model.
    :raises ValueError: If a key is unknown or missing, or a value of another type or outside its range.
    """
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    *path, key = first["loc"] or ("",)
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "dict[", "list[")))
    match first["type"]:
        case "extra_forbidden":
            known = _keys(kind, path)
            raise ValueError(f"Unknown key of {where}: {key!r}." + (f" Known are {', '.join(known)}." if known else ""))
        case "missing":
            raise ValueError(f"{where} needs the key `{key}`.")
        case "value_error":
            raise ValueError(f"{where}: {first['ctx']['error']}")
        case _:
            name = f"`{place}` of {where}" if place else where
            raise ValueError(f"{name}: {first['msg']}. Received {first['input']!r:.200}.")


def _keys(kind: Any, path: list[Any]) -> list[str]:
    if path or not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    fields: Mapping[str, Any] = kind.model_fields
    return list(fields)

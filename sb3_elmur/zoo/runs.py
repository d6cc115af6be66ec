"""Run folders of rl_zoo3: which model is meant, and what it was trained with, read without running code of the files."""

import argparse
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from huggingface_sb3 import EnvironmentName  # type: ignore[import-untyped]
from rl_zoo3.utils import get_model_path
from torch import nn, optim

from sb3_elmur.command_line import SettingsError
from sb3_elmur.saved_statistics import STATISTICS_FILE, check_statistics, find_statistics
from sb3_elmur.settings import UNREADABLE, as_literal
from sb3_elmur.zoo.checks import CLASSES, checked_classes
from sb3_elmur.zoo.substitutes import environments_made_by

WRITTEN = ("config.yml", "args.yml")


class _Loader(yaml.SafeLoader):
    """Safe YAML, and what rl_zoo3 writes beside it: ordered mappings, tuples, and classes of PyTorch by name."""


def _items(loader: yaml.SafeLoader, node: yaml.Node) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "a sequence is expected", node.start_mark)
    return loader.construct_sequence(node, deep=True)


def _ordered(loader: yaml.SafeLoader, node: yaml.Node) -> OrderedDict[Any, Any]:
    (items,) = _items(loader, node)
    return OrderedDict(items)


def _tuple(loader: yaml.SafeLoader, node: yaml.Node) -> tuple[Any, ...]:
    return tuple(_items(loader, node))


def _module_class(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> type:
    name = suffix.rpartition(".")[2]
    for cls in (getattr(nn, name, None), getattr(optim, name, None)):
        if isinstance(cls, type) and f"{cls.__module__}.{cls.__name__}" == suffix:
            return cls
    raise yaml.constructor.ConstructorError(None, None, f"`{suffix}` is no class of torch.nn or torch.optim", node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered)
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", _module_class)


def find_model(options: argparse.Namespace) -> Path:
    """
    The model that ``enjoy``, ``record-video`` and ``push-to-hub`` take.

    :param options: Those of them: ``env``, ``algo``, ``folder``, ``exp_id``, ``load_best``, ``load_checkpoint`` and
        ``load_last_checkpoint``.
    :return: Its zip file.
    :raises SettingsError: If there is none.
    """
    try:
        _, model, _ = get_model_path(
            options.exp_id, options.folder, options.algo, EnvironmentName(options.env), options.load_best,
            options.load_checkpoint, options.load_last_checkpoint,
        )  # fmt: skip
    except (AssertionError, ValueError) as error:
        raise SettingsError(str(error)) from error
    return Path(model)


def check_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Read what rl_zoo3 wrote of a run, which it will load by a loader that runs what is in it.

    :param folder: With ``config.yml`` and ``args.yml``, if they are there.
    :return: The settings, and the arguments of the command line.
    :raises SettingsError: If there is anything in the files but values, or a class of another kind than its name says.
    """
    contents: list[dict[str, Any]] = []
    for path in map(folder.joinpath, WRITTEN):
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), _Loader) if path.exists() else {}
            if not isinstance(content, dict):
                raise ValueError("it must map names to values")
            as_literal("normalize", content.get("normalize"))
            for name, base in CLASSES.items():
                if content.get(name) is not None:
                    checked_classes(name, content[name], base)
        except UNREADABLE as error:
            raise SettingsError(f"{path} is not what a run writes: {' '.join(str(error).split())}") from error
        contents.append(content)
    return contents[0], contents[1]


def check_trained_agent(path: str) -> None:
    """
    Make sure that a training begins with the agent that it is to begin with: rl_zoo3 begins anew where there is none.

    :param path: Of ``--trained-agent``, may be empty.
    :raises SettingsError: If it is no .zip file.
    """
    if path and not (path.endswith(".zip") and Path(path).is_file()):
        raise SettingsError(f"`--trained-agent` must be the .zip file of a model. Received {path!r}.")


@contextmanager
def statistics_of(model: Path, settings: dict[str, Any]) -> Iterator[None]:
    """
    While it lasts, rl_zoo3 normalises the environments that it makes by the statistics that belong to a model by name.

    :param model: The zip file.
    :param settings: Of its training.
    :raises SettingsError: If it was trained in normalised environments, and has no statistics.
    """
    statistics = find_statistics(model) if settings.get("normalize") else None
    if settings.get("normalize") and statistics is None:
        raise SettingsError(f"There are no statistics of {model}, which was trained in normalised environments.")
    with TemporaryDirectory() as folder:
        if statistics is not None:
            try:
                check_statistics(statistics)
            except ValueError as error:
                raise SettingsError(str(error)) from error
            shutil.copy(statistics, Path(folder) / STATISTICS_FILE)  # the name that the zoo looks for
        with environments_made_by(lambda create: lambda *args, **named: create(*args, **named | {"stats_path": folder})):
            yield

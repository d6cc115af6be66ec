"""The Hugging Face hub by way of rl_zoo3: what its card generation lacks, and cards that name this package's commands."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub import repocard

INSTALL = 'pip install ".[zoo]"  # in a clone of sb3-elmur'
_save_metadata = repocard.metadata_save


def adapt() -> None:
    """
    Prepare what ``rl_zoo3.push_to_hub`` imports.

    rl_zoo3 2.9.2 imports ``generate_metadata``, which sb3-team-hf-integration 3.2 calls ``_generate_metadata``.
    """
    integration: Any = import_module("huggingface_sb3.push_to_hub")
    if not hasattr(integration, "generate_metadata"):
        integration.generate_metadata = lambda *arguments: integration._generate_metadata(*arguments).to_dict()
    repocard.metadata_save = save_card


def save_card(local_path: str | Path, data: dict[Any, Any]) -> None:
    """
    Put this package's commands in the place of the zoo's, which do not know its algorithm, and save the metadata.

    :param local_path: The model card, written by the zoo.
    :param data: Metadata to be saved in it.
    """
    text = Path(local_path).read_text(encoding="utf-8").replace("pip install rl_zoo3", INSTALL)
    text = re.sub(r"python -m rl_zoo3\.(\w+)", lambda command: f"sb3-elmur {command[1].replace('_', '-')}", text)
    Path(local_path).write_text(text, encoding="utf-8")
    _save_metadata(local_path, data)

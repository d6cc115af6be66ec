"""What tells one version of an environment, and of the expert that comes with it, from another."""

import hashlib
import inspect
from pathlib import Path

import gymnasium
from gymnasium.envs.registration import load_env_creator


def source_hash(env_id: str) -> str:
    """
    SHA-256 of the source that makes an environment: of its package with all that is below, or of its only file.

    :param env_id: Registered id.
    """
    entry_point = gymnasium.spec(env_id).entry_point
    module = inspect.getmodule(load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point)
    assert module is not None
    assert module.__file__ is not None
    file = Path(module.__file__)
    folder = file.parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")) if module.__package__ else [file]:
        source = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(source)}\n".encode() + source)
    return digest.hexdigest()

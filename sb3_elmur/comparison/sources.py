"""What tells one version of an environment, and of the expert that comes with it, from another."""

import hashlib
import inspect
from pathlib import Path

from sb3_elmur.envs.batch import creator_of


def source_hash(env_id: str) -> str:
    """
    SHA-256 of the source that makes an environment: of its package with all that is below, or of its only file.

    :param env_id: Registered id.
    """
    module = inspect.getmodule(creator_of(env_id))
    assert module is not None
    assert module.__file__ is not None
    file = Path(module.__file__)
    folder = file.parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")) if module.__package__ else [file]:
        source = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(source)}\n".encode() + source)
    return digest.hexdigest()

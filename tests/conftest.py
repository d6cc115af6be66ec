"""What all tests share: folders of their own for logs and temporary files, so that a run leaves nothing behind."""

import os
import tempfile
from collections.abc import Iterator

import pytest

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Workers share the cores; PyTorch's threads wait for each other where cores are busy, which takes 30 times as long.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


@pytest.fixture(autouse=True, scope="session")
def _nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Child processes inherit both folders. Logs may stay in theirs; other temporary files are deleted by their makers."""
    logs, temporary = tmp_path_factory.mktemp("logs"), tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(logs))
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", str(temporary))
        yield
    assert not list(temporary.iterdir())

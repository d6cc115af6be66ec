"""What every test gets: a folder of its own for logs, so that a run of the tests leaves nothing in the temporary folder."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _logs_in_a_folder_of_the_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "logs"
    monkeypatch.setenv("SB3_LOGDIR", str(folder))

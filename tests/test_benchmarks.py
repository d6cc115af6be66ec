"""The scripts of ``benchmarks/`` import, so that what moves in the package moves there, too."""

import importlib
import importlib.util
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_imports(script: Path) -> None:
    try:
        importlib.import_module(script.stem)
    except ModuleNotFoundError as error:
        if error.name in ("skrl", "torchrl", "mani_skill", "mikasa_robo_suite", "sapien"):
            pytest.skip(f"{error.name} is missing, which no extra of the tests brings")
        raise

"""Layout: imports flow one way, the wheel has one top-level package, and what the README shows works."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from sb3_contrib import RecurrentPPO

import sb3_elmur

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "files": set(),
    "options": set(),
    "distributed": set(),
    "config": set(),
    "memory": set(),
    "feedforward": {"config"},
    "attention": {"config"},
    "blending": {"config"},
    "unroll": {"memory"},
    "layer": {"config", "feedforward", "attention", "blending"},
    "elmur": {"config", "memory", "feedforward", "attention", "layer", "unroll"},
    "cells": {"config", "elmur", "memory"},
    "backbone": {"cells", "config", "elmur", "layer", "memory"},
    "checks": {"elmur"},
    "policies": {"config", "checks", "memory", "elmur", "backbone"},
    "encoders": set(),
    "buffers": {"backbone", "memory"},
    "ppo": {"backbone", "buffers", "policies"},
    "fields": set(),
    "npz": {"fields"},
    "datasets": {"fields", "npz"},
    "normalizing": {"datasets"},
    "recording": {"config", "datasets", "files", "options", "ppo"},
    "evaluation": {"elmur", "envs", "memory", "policies", "evaluation_command"},
    "evaluation_command": {"envs", "evaluation", "files", "memory", "normalizing", "options", "policies", "ppo"},
    "bc_config": {"config"},
    "cloning_loss": {"policies"},
    "bc": {
        "bc_config",
        "cloning_loss",
        "datasets",
        "distributed",
        "feedforward",
        "files",
        "memory",
        "policies",
        "ppo",
        "bc_command",
    },
    "dotted": set(),
    "bc_command": {"bc", "bc_config", "config", "datasets", "distributed", "dotted", "files", "normalizing", "options", "ppo"},
    "typed": set(),
    "zoo_checks": {"config", "dotted", "policies", "typed"},
    "zoo_search": set(),
    "zoo_manager": {"dotted", "envs", "typed", "zoo_checks"},
    "zoo_hub": set(),
    "zoo_video": {"memory", "ppo"},
    "zoo": {"ppo", "zoo_checks", "zoo_search"},
    "cli": {"zoo_checks"},
    "resizing": {"config", "ppo"},
    "tracing": {"attention", "blending", "elmur", "feedforward", "memory"},
    "measures": {"elmur", "memory", "tracing"},
    "failure_signs": {"config", "measures"},
    "panels": {"tracing"},
    "monitor": {"elmur", "failure_signs", "feedforward", "measures", "memory", "panels", "policies", "tracing"},
    "callbacks": {"config", "memory", "monitor", "ppo"},
    "exploration": {"config"},
    "cloning_callback": {"bc", "config", "memory", "monitor"},
    "probing": set(),
    "inspection": {"memory", "monitor", "policies", "probing", "tracing"},
    "inspection_figures": {"inspection", "panels", "probing"},
    "facts": {"inspection", "probing"},
    "inspection_page": {"facts", "files", "inspection", "inspection_figures", "probing"},
    "inspection_command": {
        "config",
        "envs",
        "evaluation_command",
        "facts",
        "inspection",
        "inspection_page",
        "monitor",
        "normalizing",
        "options",
        "panels",
        "probing",
    },
    "__init__": {"callbacks", "envs", "policies", "ppo", "resizing"},
}
PLAIN_PYTORCH = (
    "config", "memory", "feedforward", "attention", "blending", "layer", "unroll", "elmur", "cells", "backbone", "tracing",
    "measures", "failure_signs",
)  # fmt: skip


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports; relative imports begin with a dot."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names |= {f"{base}.{alias.name}" for alias in node.names} if base == "sb3_elmur" else {base}
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "sb3_elmur").glob("*.py")), ids=lambda path: path.stem)
def test_imports_flow_one_way(path: Path) -> None:
    names = imported(path)
    own = {name.split(".")[1] for name in names if name.startswith("sb3_elmur.")}
    assert own <= MAY_IMPORT[path.stem]
    if path.stem in PLAIN_PYTORCH:
        assert not {name.split(".")[0] for name in names} & {"stable_baselines3", "sb3_contrib", "gymnasium"}


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.py")), ids=lambda path: path.stem)
def test_environments_import_nothing_of_the_package(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] in ("sb3_elmur", "envs")}


def test_the_wheel_has_one_top_level_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("sb3_elmur", "envs", "zoo_configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*command, str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"sb3_elmur", f"sb3_elmur-{sb3_elmur.__version__}.dist-info"}
    for expected in ("py.typed", "envs/tmaze.py", "zoo_configs/ppo_elmur.yml", "policies.py"):
        assert f"sb3_elmur/{expected}" in names


def test_the_package_imports_from_the_root_of_a_checkout() -> None:
    """There the checkout's folder shadows the installed package."""
    code = "import sb3_elmur, sb3_elmur.envs, sb3_elmur.zoo_configs; print(sb3_elmur.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert Path(result.stdout.strip()).parent == ROOT / "sb3_elmur"


def test_the_readmes_python_example_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    learn = RecurrentPPO.learn
    monkeypatch.setattr(RecurrentPPO, "learn", lambda self, total_timesteps, **kwargs: learn(self, 1))
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})

"""Layout: imports flow one way, the wheel has one top-level package, and no two modules import each other."""

import ast
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sb3_elmur

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "core": set(),
    "datasets": set(),
    "settings": {"core"},
    "extras": set(),
    "command_line": set(),
    "atomic_files": set(),
    "claims": {"command_line"},
    "encoders": set(),
    "policy_arguments": {"core"},
    "policy_checks": {"core"},
    "finite": set(),
    "buffers": {"core"},
    "spaces": set(),
    "masks": set(),
    "acting": {"core", "masks", "policy_checks"},
    "policies": {"acting", "core", "masks", "policy_arguments", "policy_checks"},
    "distributed": set(),
    "training": {"buffers", "core", "distributed", "policies"},
    "ppo": {"buffers", "core", "distributed", "finite", "masks", "policies", "training"},
    "models": {"core", "policies", "ppo"},
    "saved_statistics": {"core"},
    "monitoring": {"core", "policies"},
    "callbacks": {"core", "masks", "monitoring", "ppo", "training"},
    "recording": {"core", "datasets", "atomic_files", "command_line", "masks", "models", "saved_statistics"},
    "bc": {
        "core", "datasets", "distributed", "atomic_files", "claims", "settings", "command_line", "masks", "models",
        "monitoring", "policies", "ppo", "saved_statistics",
    },
    "evaluation": {
        "core", "datasets", "envs", "atomic_files", "command_line", "finite", "masks", "models", "policies",
        "saved_statistics",
    },
    "inspection": {
        "core", "envs", "atomic_files", "command_line", "evaluation", "models", "policies", "monitoring",
        "saved_statistics",
    },
    "export": {"core", "atomic_files", "command_line", "models", "policies", "saved_statistics"},
    "zoo": {
        "callbacks", "claims", "core", "distributed", "envs", "finite", "settings", "atomic_files",
        "command_line", "masks", "policies", "policy_arguments", "ppo", "saved_statistics",
        "training",
    },
    "comparison": {
        "bc", "core", "datasets", "envs", "evaluation", "recording", "saved_statistics", "settings", "atomic_files",
        "command_line", "policies", "ppo", "zoo",
    },
    "testing": {"core"},
    "cli": set(),
    "__init__": {"callbacks", "envs", "policies", "ppo", "models"},
}  # fmt: skip
"""The rooms of the package, and which others each may import. A room is a module, or a folder of modules."""
MAY_BE_IMPORTED_BY_ALL = {"extras", "spaces"}
PLAIN_PYTORCH = ("core", "monitoring/tracing.py", "monitoring/measures.py", "monitoring/failure_signs.py")
PACKAGE_DATA = {"sb3_elmur/py.typed", "sb3_elmur/inspection/report.html"}
HOSTS = {"stable_baselines3", "sb3_contrib", "gymnasium"}


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports; relative imports begin with a dot."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names |= {f"{base}.{alias.name}" for alias in node.names} | ({base} - {"sb3_elmur"})
    return names


def modules(folder: str) -> list[Path]:
    """All modules below a folder of the checkout."""
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", modules("sb3_elmur"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_flow_one_way(path: Path) -> None:
    names = imported(path)
    place = path.relative_to(ROOT / "sb3_elmur")
    room = place.parts[0].removesuffix(".py")
    others = {name.split(".")[1] for name in names if name.startswith("sb3_elmur.")} - {room}
    assert others <= MAY_IMPORT[room] | MAY_BE_IMPORTED_BY_ALL
    assert not [name for name in names if name.startswith("..")]  # what leaves its room names the package
    if place.as_posix().startswith(PLAIN_PYTORCH):
        assert not {name.split(".")[0] for name in names} & HOSTS


def test_the_tree_of_the_design_names_every_module() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    tree = text[text.index("\nsb3_elmur/ ") : text.index("\nzoo_configs/ ")]
    rows = re.split(r"\n(?=\S|  \S)", tree.strip("\n"))  # other lines go on with the row before
    rooms = {row.split("/")[0].strip(): set(re.findall(r"\w+", row)) for row in rows}
    for path in modules("sb3_elmur"):
        *folders, name = path.relative_to(ROOT / "sb3_elmur").with_suffix("").parts
        if not name.startswith("__"):
            assert name in rooms[folders[0] if folders else "sb3_elmur"], path


@pytest.mark.parametrize("path", modules("sb3_elmur"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def module_name(path: Path) -> str:
    """The dotted name of a module of the checkout; a folder's ``__init__`` is the folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def absolute_imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, relative imports resolved; a package's own ``__init__`` left out."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for name in imported(path):
        level = len(name) - len(name.lstrip("."))
        base = ".".join(package[: len(package) - level + 1]) + "." if level else ""
        names.add((base + name.lstrip(".")).rstrip("."))
    return names


@pytest.mark.parametrize("folder", ["sb3_elmur", "envs"])
def test_no_modules_import_each_other(folder: str) -> None:
    arrows = {module_name(path): {*absolute_imports(path)} for path in modules(folder)}
    order = TopologicalSorter({name: targets & arrows.keys() for name, targets in arrows.items()})
    order.prepare()  # raises CycleError


@pytest.mark.parametrize("path", modules("envs"), ids=lambda path: str(path.relative_to(ROOT)))
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
    own = {path.relative_to(ROOT).as_posix() for path in modules("sb3_elmur")}
    mapped = {f"sb3_elmur/{path.relative_to(ROOT).as_posix()}" for path in modules("envs") + modules("zoo_configs")}
    settings = {f"sb3_elmur/zoo_configs/{path.name}" for path in (ROOT / "zoo_configs").glob("*.yml")}
    assert {name for name in names if ".dist-info/" not in name} == own | mapped | settings | PACKAGE_DATA


def test_the_package_imports_from_the_root_of_a_checkout() -> None:
    """There the checkout's folder shadows the installed package."""
    code = "import sb3_elmur, sb3_elmur.envs, sb3_elmur.zoo_configs; print(sb3_elmur.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert Path(result.stdout.strip()).parent == ROOT / "sb3_elmur"


def test_what_tests_write_goes_to_folders_that_pytest_deletes(tmp_path_factory: pytest.TempPathFactory) -> None:
    code = "import tempfile; from stable_baselines3.common import logger; print(tempfile.gettempdir(), logger.configure().dir)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for folder in (tempfile.gettempdir(), *result.stdout.split()[-2:]):
        assert tmp_path_factory.getbasetemp() in Path(folder).parents

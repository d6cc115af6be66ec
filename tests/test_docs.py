"""The README and the documentation: links lead somewhere, code and commands run, the explained layer is the package's."""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch as th
import yaml
from yardstick import StraightforwardElmur

import sb3_elmur  # noqa: F401, registers environments
from docs_helpers import shorten_ppo
from sb3_elmur.cli import main
from sb3_elmur.core import Elmur, ElmurConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in DOCS.rglob("*.md") if not {"_build", "api"} & set(path.relative_to(DOCS).parts)),
]
EXTRAS = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
FOLDERS = "sb3_elmur|envs|zoo_configs|benchmarks|tests|examples|docs"

SETTINGS = ["n_envs:2", "n_steps:8", "batch_size:16", "n_epochs:1"]
NEEDS = {
    "train": "rl_zoo3",
    "enjoy": "rl_zoo3",
    "record-video": "moviepy",
    "tune": "rl_zoo3",
    "plot": "seaborn",
    "export": "onnxscript",
}


def name(page: Path) -> str:
    """The page's path in the checkout."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[str]:
    """The lines of all shell blocks, without comments; a line that ends in a backslash goes on."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield shlex.join(words)


def by_hand() -> set[str]:
    """The commands that the contributing page lists as run by hand."""
    rows = re.findall(r"^\| `([^`]+)` \|[^|]+\|[^|]+\|$", (DOCS / "contributing.md").read_text(), flags=re.MULTILINE)
    return {shlex.join(shlex.split(row)) for row in rows}


BY_HAND = by_hand()


def shorten(words: list[str]) -> list[str]:
    """The words of a ``sb3-elmur`` command, changed so that it takes few steps."""
    command, *words = words

    def replace(option: str, value: str) -> None:
        words[words.index(option) + 1] = value

    if command == "record":
        replace("--episodes", "4")
        return [command, *words, "--no-progress"]
    if command == "bc":
        return [command, *words, "--n-epochs", "1", "--n-eval-episodes", "2", "--eval-freq", "1", "--no-progress"]
    if command == "evaluate":
        long = [word for word in words if word.isdecimal() and int(word) > 100]
        words = [re.sub(r"x1000000-v0$", "x60-v0", word) for word in words if word not in long]
        return [command, *words, "--episodes", "2", "--no-progress"]
    if command == "inspect":
        return [command, *(word.replace("length:1000", "length:30") for word in words), "--episodes", "20"]
    if command == "train":
        return [command, *words, "-n", "32", "--eval-freq", "-1", "-params", *SETTINGS]
    if command == "tune":
        words += ["-n", "32", "--n-trials", "1", "--n-evaluations", "1", "--eval-episodes", "1", "--no-optim-plots"]
        return [command, *words, "-params", "n_envs:1"]
    if command in ("enjoy", "record-video"):
        replace("-n", "4")
    return [command, *words, *(["--no-render"] if command == "enjoy" and "--no-render" not in words else [])]


MY_PACKAGE = """
import gymnasium
from sb3_elmur.envs import TMazeEnv

gymnasium.register("MyEnv-v0", lambda: TMazeEnv(length=10))
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the commands of all pages, which use each other's data and models, with an environment of one's own."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "my_package.py").write_text(MY_PACKAGE)
    return folder


DONE: set[str] = set()


SIMULATED = {DOCS / "environments" / "mikasa.md"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.mikasa if page in SIMULATED else (), id=name(page))
        for page in PAGES
        if any("sb3-elmur" in line for line in commands(page))
    ],
)
def test_every_command_of_the_package_runs(page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    for line in commands(page):
        words = [word for word in shlex.split(line) if not word.startswith("OMP_NUM_THREADS=")]
        if words[0] != "sb3-elmur" or line in BY_HAND | DONE:
            continue
        if words[1] in NEEDS:
            pytest.importorskip(NEEDS[words[1]])
        monkeypatch.setattr(sys, "argv", ["sb3-elmur", *shorten(words[1:])])
        main()
        DONE.add(line)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_other_command_is_known(page: Path) -> None:
    """A target of the Makefile, an installation of extras that exist, or a line of the list of those run by hand."""
    for line in commands(page):
        words = shlex.split(line)
        if words[0] == "make":
            assert set(words[1:]) <= set(TARGETS)
        elif words[:2] == ["pip", "install"]:
            extras = re.findall(r"\.\[([a-z,]+)\]", line)
            assert not extras or set(extras[0].split(",")) <= set(EXTRAS)
        elif "sb3-elmur" not in words and words[0] != "apt-get":
            assert line in BY_HAND, f"{line!r} is neither run by a test nor in the list of docs/contributing.md"


def test_nothing_is_listed_that_no_page_shows() -> None:
    assert {line for page in PAGES for line in commands(page)} >= BY_HAND


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_every_python_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page one after another, as a reader would type them."""
    code = blocks(page, "python")
    if "MikasaVecEnv" in "".join(code):
        pytest.skip("needs a simulator on a GPU")
    if "POPGym" in "".join(code):
        pytest.importorskip("popgym")
    if "onnxruntime" in "".join(code):
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    shorten_ppo(monkeypatch)
    names: dict[str, Any] = {}
    for block in code:
        exec(compile(block, name(page), "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=name)
def test_every_yaml_block_is_yaml(page: Path) -> None:
    assert all(isinstance(yaml.safe_load(block), dict) for block in blocks(page, "yaml"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not [target for target in missing if DOCS / "api" not in (page.parent / target).resolve().parents]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_in_the_text_exists(page: Path) -> None:
    paths = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", page.read_text())
    assert not [path for path in paths if not (ROOT / path).exists() and "_build" not in path]


def test_the_readme_has_at_most_200_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.fixture
def explained() -> dict[str, Any]:
    """What the code on "How it works" defines."""
    names: dict[str, Any] = {}
    exec(blocks(DOCS / "how_it_works.md", "python")[0], names)
    return names


def test_the_explained_layer_computes_what_the_package_computes(explained: dict[str, Any]) -> None:
    config = ElmurConfig(d_model=16, n_heads=2, segment_length=5, memory_size=3, max_distance=8, lru_blend=0.3)
    th.manual_seed(0)
    package = Elmur(config).eval()
    for parameter in package.parameters():
        th.nn.init.normal_(parameter, std=0.3)
    weights = StraightforwardElmur(config).load_from(package)  # one matrix per projection, as on the page
    layers = [explained["Layer"](16, 2, 8) for _ in range(config.n_layers)]
    for layer, source in zip(layers, weights.layers, strict=True):
        layer.load_state_dict(
            {re.sub(r"around_(\w+)\.norm\.", r"norms.\1.", key): w for key, w in source.state_dict().items()}
        )

    x = th.randn(4, 25, 16)  # (B, T, D): five segments
    memory, stepped = package.initial_memory(4), package.initial_state(4)
    slots, anchors = memory.slots, memory.anchors
    run_segment: Callable[..., Any] = explained["run_segment"]
    with th.no_grad():
        for start in range(0, 25, 5):
            time = th.full((4,), start)
            y, slots, anchors = run_segment(
                layers, x[:, start : start + 5], slots, anchors, time, weights.content_bias, weights.distance_bias, 0.3
            )
            for t in range(5):
                output, stepped = package.step(x[:, start + t], stepped, th.zeros(4, dtype=th.bool))
                th.testing.assert_close(output, y[:, t], rtol=1e-4, atol=1e-5)
    th.testing.assert_close(stepped.memory.slots, slots, rtol=1e-4, atol=1e-5)
    assert th.equal(stepped.memory.anchors, anchors)

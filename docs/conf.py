"""Sphinx configuration: Markdown pages, and an API reference made from the docstrings of every module."""

import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

import sb3_elmur  # noqa: E402

project = "sb3-elmur"
author = copyright = "the sb3-elmur developers"
release = version = sb3_elmur.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "sb3-elmur"
html_static_path = ["_static"]
html_css_files = ["custom.css"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

default_role = "code"  # a single backtick in a docstring is code
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
suppress_warnings = ["ref.python"]  # two rooms may each have a class of one name, such as `Task`
autodoc_mock_imports = ["mani_skill", "mikasa_robo_suite", "sapien"]  # the simulator is large and not needed to read about it
python_maximum_signature_line_length = 100

ROOMS = {
    "policies": "the policies, which are the host's classes",
    "acting": "acting step by step with a policy",
    "policy_arguments": "checks of what a policy is built with",
    "policy_checks": "checks of what a policy is called with",
    "masks": "action masks",
    "spaces": "which spaces the policies take",
    "ppo": "the faster RecurrentPPO",
    "ppo_checks": "checks of its arguments",
    "buffers": "its rollout buffer of whole segments",
    "trust_region": "how far an update may go",
    "averaging": "the average of weights that acts",
    "reward_scaling": "large rewards made smaller",
    "compiling": "compiled steps of rollouts",
    "distributed": "processes that train one model",
    "joint_training": "PPO in several processes",
    "encoders": "image features extractors",
    "callbacks": "callbacks for training",
    "models": "saved models",
    "core": "the network in plain PyTorch, and its state",
    "envs": "the environments",
    "datasets": "reading data sets of episodes",
    "recording": "recording experts",
    "bc": "behaviour cloning",
    "evaluation": "evaluation over long episodes",
    "inspection": "the report of an episode",
    "monitoring": "what is measured while training",
    "comparison": "matrices of experiments",
    "export": "policies as ONNX files",
    "testing": "checks of a memory of your own",
    "zoo": "rl_zoo3 with this package in it",
    "settings": "values that users write in YAML",
    "command_line": "what all commands share",
    "atomic_files": "files that are complete or absent",
}
"""The rooms of the package in reading order. Rooms that do not stand here follow in alphabetical order."""
NO_PAGES = {"cli", "zoo_configs"}


def modules_by_room() -> dict[str, list[str]]:
    """Dotted names of the modules of each room; a room's own ``__init__`` comes first."""
    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "sb3_elmur").rglob("*.py"))]
    paths += [Path("sb3_elmur") / path.relative_to(ROOT) for path in sorted((ROOT / "envs").rglob("*.py"))]
    rooms: dict[str, list[str]] = {}
    for path in paths:
        name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        room = name.removeprefix("sb3_elmur").removeprefix(".").split(".")[0]
        if room and room not in NO_PAGES and not path.stem.startswith("__main"):
            rooms.setdefault(room, []).append(name)
    return rooms


def own_members(name: str) -> bool:
    """Whether a module defines public names itself."""
    module = import_module(name)
    return any(getattr(value, "__module__", None) == name and not key.startswith("_") for key, value in vars(module).items())


def write_api_pages(*_: object) -> None:
    """Write ``docs/api``: a page for each room, with the docstrings of its modules."""
    folder = DOCS / "api"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rooms = modules_by_room()
    order = [room for room in ROOMS if room in rooms] + sorted(rooms.keys() - ROOMS.keys())
    for room in order:
        lines = [f"# {room}", ""]
        for name in rooms[room]:
            if name.count(".") > 1:
                lines += [f"## {name.removeprefix('sb3_elmur.')}", ""]
            lines += ["```{eval-rst}", f".. automodule:: {name}"]
            lines += ["   :members:", "   :show-inheritance:", "   :ignore-module-all:"] if own_members(name) else []
            lines += ["```", ""]
        (folder / f"{room}.md").write_text("\n".join(lines))
    index = ["# API reference", "", "One page for each room of the package, from the docstrings.", ""]
    index += ["| room | what it holds |", "|---|---|"]
    index += [f"| [{room}]({room}.md) | {ROOMS.get(room, '')} |" for room in order]
    index += ["", "```{toctree}", ":hidden:", "", *order, "```", ""]
    (folder / "index.md").write_text("\n".join(index))


def from_markdown(app: object, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Environments have docstrings with Gymnasium's Markdown headings and tables; Sphinx wants reStructuredText."""
    converted: list[str] = []
    for line in lines:
        if line.startswith("## "):
            converted += [f".. rubric:: {line.removeprefix('## ')}", ""]
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not converted[-1].startswith("     "):
                converted += [".. list-table::", "   :header-rows: 1", ""]
            if not set(line) <= {"|", "-"}:
                converted += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(cells)]
        else:
            converted.append(line)
    lines[:] = converted


def short_defaults(
    app: object, what: str, name: str, value: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """A class as a default value is written by its name; otherwise Sphinx cannot read the signature and break its lines."""
    return signature and re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", signature), returned


def setup(app: object) -> None:
    """Sphinx calls this first."""
    app.connect("builder-inited", write_api_pages)  # type: ignore[attr-defined]
    app.connect("autodoc-process-signature", short_defaults)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", from_markdown)  # type: ignore[attr-defined]

"""What users write in YAML: files, values against annotations, and classes that are named by dotted paths."""

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sb3_elmur.encoders import FourLayerExtractor
from sb3_elmur.envs.popgym import TASKS
from sb3_elmur.settings import (
    argument_types,
    as_literal,
    check_known,
    check_type,
    conforms,
    find_class,
    read_file,
    read_settings,
    schedule,
    with_classes,
)

EXTRACTOR = "sb3_elmur.encoders.FourLayerExtractor"


# Files


def test_settings_are_those_of_the_environment_or_else_the_default_said_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "made.yml"
    path.write_text("Here-v0: {a: 1}\ndefault: {a: 2}\n")
    assert read_settings(path, "Here-v0") == {"a": 1}
    assert not capsys.readouterr().out
    assert read_settings(path, "There-v0") == {"a": 2}
    assert "There-v0" in capsys.readouterr().out


def test_packaged_settings_are_read_by_name() -> None:
    assert read_settings("ppo_elmur.yml", "TMazePassive30-v0")["policy_kwargs"]["segment_length"] == 5


@pytest.mark.parametrize("name", ["ppo_elmur.yml", "ppo_lstm.yml"])
def test_popgym_has_one_setting_for_all_tasks(name: str) -> None:
    settings = [read_settings(name, f"POPGym{task}-v0") for task in TASKS]
    assert settings == [settings[0]] * 48


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "must map names to values"),
        ("1: {}", "must map names to values"),
        ("There-v0: {}", "no settings for Here-v0: give it the key `Here-v0`, or `default`"),
        ("Here-v0: 3", "`Here-v0` of .* Received 3"),
        ("Here-v0: !!python/object/apply:os.system [exit 1]", "is not YAML"),
        ("Here-v0: !!timestamp soon", "is not YAML"),
        ("Here-v0: 2026-13-45", "is not YAML"),
        (b"\xff", "is not YAML"),
    ],
)
def test_a_file_that_is_no_settings_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "made.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_settings(path, "Here-v0")


def test_a_file_that_unfolds_without_end_is_told_shortly(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "made.yml").write_text("\n".join([*lines, "Here-v0: *a11"]))
    with pytest.raises(ValueError, match="must map names") as caught:
        read_settings(tmp_path / "made.yml", "Here-v0")
    assert len(str(caught.value)) < 5000


@given(st.text(max_size=30))
def test_any_text_is_a_mapping_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_text(text, encoding="utf-8")
    with suppress(ValueError):
        assert isinstance(read_file(path), dict)


# Values


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (Any, [None, object()], []),
        (int, [3], [3.0, True, "3", None, 10**19, -(10**400)]),
        (float, [3, 3.0], [False, "3.0", 10**400]),
        (bool, [True], [1]),
        (float | None, [None, 1], ["1"]),
        (list, [[1, "a"]], [(1,), "a"]),
        (list[int], [[], [1]], [["1"], [True], (1,)]),
        (tuple[int, ...], [[1, 2], (1, 2)], [["1"], 1]),
        (dict[str, list[int]], [{}, {"pi": [1]}], [{"pi": 1}, {1: [1]}, []]),
        (dict, [{1: 1}], [[]]),
        (type, [int], ["int"]),
        (type[nn.Module], [nn.ReLU], [int, "nn.ReLU"]),
        (float | Callable[[float], float], [0.1, abs], ["0.1"]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        ("Unresolved", [1], []),
    ],
)
def test_values_conform_to_annotations(hint: Any, good: list[Any], bad: list[Any]) -> None:
    assert [conforms(value, hint) for value in good + bad] == [True] * len(good) + [False] * len(bad)


def test_what_holds_itself_conforms_to_nothing_that_looks_inside() -> None:
    itself: list[Any] = []
    itself.append(itself)
    assert not conforms(itself, list[list[int]])


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("1e-3", float, "float. Received '1e-3'. To YAML that is text; a number has a point: 1.0e-03."),
        ("1", float | None, "float | None. Received '1'. To YAML that is text; a number has a point: 1.0e+00."),
        ("128", int, "int. Received '128'."),
        ("fast", float, "float. Received 'fast'."),
        (1, dict[str, Any], "dict[str, Any]. Received 1."),
    ],
)
def test_a_wrong_type_is_named_and_a_number_that_yaml_takes_for_text_explained(value: Any, hint: Any, expected: str) -> None:
    with pytest.raises(ValueError, match="`x` must be ") as caught:
        check_type("`x`", value, hint)
    assert str(caught.value).endswith(expected)


@given(st.floats(1e-6, 1e3))
def test_a_linear_schedule_falls_from_its_number_to_zero(start: float) -> None:
    falling = schedule(f"lin_{start!r}")
    assert falling(1.0) == pytest.approx(start)
    assert falling(0.0) == 0.0
    assert schedule(start) == start


@pytest.mark.parametrize("text", ["con_1", "lin_", "lin_fast", "1e-3", "lin_1_2x"])
def test_another_text_is_no_schedule(text: str) -> None:
    with pytest.raises(ValueError, match=f"'lin_<number>'. Received '{text}'"):
        schedule(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dict(net_arch=[3], activation_fn=nn.ReLU)", {"net_arch": [3], "activation_fn": nn.ReLU}),
        ("{'norm_obs': True, 'clip': -1.5}", {"norm_obs": True, "clip": -1.5}),
        ("dict(net_arch=dict(pi=[64], vf=(64,)))", {"net_arch": {"pi": [64], "vf": (64,)}}),
        (" None ", None),
    ],
)
def test_what_the_zoo_evaluates_is_read_as_it_would(text: str, value: Any) -> None:
    assert as_literal("x", text) == value
    assert as_literal("x", value) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('exit 1')",
        "dict(**{'a': 1})",
        "dict([(1, 2)])",
        "nn.init",
        "nn.ReLU()",
        "nn.modules.os",
        "[x for x in 'ab']",
        "{**{}}",
        "dict(",
        "(" * 500,
    ],
)
def test_what_would_be_computed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="`x` must be a Python literal"):
        as_literal("x", text)


# Names


def test_an_unknown_name_is_shown_with_the_known_ones() -> None:
    check_known("key", ["b"], ["b", "a"])
    with pytest.raises(ValueError, match=r"^Unknown key: 'c'. Known are b, a\.$"):
        check_known("key", ["a", "c"], iter(["b", "a"]))
    with pytest.raises(ValueError, match=r"Known are none\."):
        check_known("key", ["c"], [])


def test_arguments_are_those_of_all_classes_to_which_they_are_handed_on() -> None:
    class Base:
        def __init__(self, a: int, b: str = "") -> None: ...

    class Handing(Base):
        def __init__(self, *arguments: Any, c: float = 0.0, **more: Any) -> None: ...

    assert argument_types(Handing, ["b"]) == {"a": int, "c": float}


# Classes


def test_classes_are_found_and_other_arguments_stay_as_they_are() -> None:
    arguments = {
        "features_extractor_class": EXTRACTOR,
        "activation_fn": nn.ELU,
        "core": "gru",
        "optimizer_class": "torch.optim.SGD",
    }
    resolved = with_classes(arguments)
    assert resolved["features_extractor_class"] is FourLayerExtractor
    assert resolved["optimizer_class"].__name__ == "SGD"
    assert (resolved["activation_fn"], resolved["core"]) == (nn.ELU, "gru")
    assert arguments["features_extractor_class"] == EXTRACTOR


@pytest.mark.parametrize("path", ["FourLayerExtractor", "sb3_elmur.encoders.F", "absent.Class", "math.pi", "", ".x.Y", ".."])
def test_what_is_no_class_is_refused_by_name(path: str) -> None:
    with pytest.raises(ValueError, match=f"`features_extractor_class` must be .* Received '{path}'"):
        with_classes({"features_extractor_class": path})


@pytest.mark.parametrize("name", ["features_extractor_class", "optimizer_class", "activation_fn"])
def test_a_class_of_another_kind_is_refused_before_it_is_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *_, **__: pytest.fail("called"))
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received 'subprocess.Popen'"):
        with_classes({name: "subprocess.Popen"})


def test_a_module_that_lacks_what_it_imports_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking.py").write_text("import absent_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_module"):
        find_class("lacking.Class")

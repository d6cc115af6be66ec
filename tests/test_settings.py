"""Values from YAML against annotations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from torch import nn

from sb3_elmur.settings import argument_types, build, check_known, check_type, conforms


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (Any, [None, object()], []),
        (int, [3], [3.0, True, "3", None]),
        (float, [3, 3.0], [False, "3.0"]),
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
        (Literal["a", "b"], ["a", "c"], []),  # which is left to whom the value is for
    ],
)
def test_values_conform_to_annotations(hint: Any, good: list[Any], bad: list[Any]) -> None:
    assert [conforms(value, hint) for value in good + bad] == [True] * len(good) + [False] * len(bad)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("1e-3", float, "`x` must be float. Received '1e-3'. To YAML that is text; a number has a point: 1.0e-03."),
        ("1", float | None, "`x` must be float | None. Received '1'. To YAML that is text; a number has a point: 1.0e+00."),
        ("128", int, "`x` must be int. Received '128'."),
        ("fast", float, "`x` must be float. Received 'fast'."),
        (1, dict[str, Any], "`x` must be dict[str, Any]. Received 1."),
    ],
)
def test_a_wrong_type_is_named_and_a_number_that_yaml_takes_for_text_explained(value: Any, hint: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message follows
        check_type("`x`", value, hint)
    assert str(caught.value) == message


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

    class Refusing(Base):
        def __init__(self, c: float = 0.0, **unknown: Any) -> None: ...

    assert argument_types(Handing, ["b"]) == {"a": int, "c": float}
    assert argument_types(Refusing) == {"c": float}


def test_a_dataclass_is_built_of_a_mapping_with_all_of_its_keys_and_no_others() -> None:
    @dataclass
    class Point:
        x: float
        more: tuple[int, ...] = ()

    assert build(Point, "point", {"x": 1, "more": [2]}) == Point(1, (2,))
    for given, message in (
        ({"x": 1, "y": 2}, "Unknown key of point: 'y'. Known are x, more"),
        ({"more": []}, "point needs the key `x`"),
        ({"x": "1"}, "`x` of point must be float"),
        ([1], r"point must be dict\[str, Any\]"),
    ):
        with pytest.raises(ValueError, match=message):
            build(Point, "point", given)

"""Bare words on the command line of the zoo's commands."""

from __future__ import annotations

import argparse
import runpy
import sys
from typing import Any

import pytest

pytest.importorskip("rl_zoo3", reason='rl_zoo3 is missing: pip install "sb3-elmur[zoo]"')

from rl_zoo3.utils import StoreDict

from sb3_elmur.zoo.commands import train


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("eased", "eased"),
        ("'eased'", "eased"),
        ("sb3_elmur.ElmurPolicy", "sb3_elmur.ElmurPolicy"),
        ("lin_1e-3", "lin_1e-3"),
        ("maps/a b.txt", "maps/a b.txt"),
        ("C:\\maps", "C:\\maps"),
        ("[eased, 2]", "[eased, 2]"),
        ("2**3", 8),
        ("True", True),
        ("None", None),
        ("1e-3", 1e-3),
        ("(1, 28)", (1, 28)),
        ("dict(a=1)", {"a": 1}),
    ],
)
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("option", ["--env-kwargs", "-params"])
def test_a_bare_word_is_a_string(
    monkeypatch: pytest.MonkeyPatch, option: str, joined: bool, value: str, expected: Any
) -> None:
    monkeypatch.setattr(runpy, "run_module", lambda *arguments, **more: None)
    monkeypatch.setattr(sys, "argv", [])
    given = [f"{option}=length:9"] if joined else [option, "length:9"]
    train(["--env", "TMazePassive30-v0", "--eval-freq", "-1", *given, f"key:{value}", "-f", "a:b"])
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument(option, dest="pairs", nargs="+", action=StoreDict)
    parser.add_argument("-f")
    options, _ = parser.parse_known_args(sys.argv[1:])
    assert options.pairs == {"length": 9, "key": expected}
    assert options.f == "a:b"

"""The command ``sb3-elmur``."""

import sys

import pytest

from sb3_elmur.cli import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["sb3-elmur", command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert f"sb3_elmur.{COMMANDS[command][0].split('.')[1].removesuffix('_command')}" in capsys.readouterr().out


def test_an_unknown_command_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["sb3-elmur", "nonsense"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "choose from" in capsys.readouterr().err

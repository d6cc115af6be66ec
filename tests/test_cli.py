"""The command ``sb3-elmur``."""

import sys
from pathlib import Path

import pytest

from sb3_elmur.cli import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    module, _ = COMMANDS[command][0].split(":")
    if module.startswith("sb3_elmur.zoo"):
        pytest.importorskip("rl_zoo3", reason='rl_zoo3 is missing: pip install "sb3-elmur[zoo]"')
    monkeypatch.setattr(sys, "argv", ["sb3-elmur", command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out.split("usage: ")[1].startswith(f"sb3-elmur {command}")


@pytest.mark.parametrize("module", ["matplotlib.figure", "joblib"])
def test_without_its_extra_a_comparison_says_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.startswith("sb3_elmur.comparison")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys, "argv", ["sb3-elmur", "compare", "matrix.yml"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert 'pip install "sb3-elmur[compare]"' in capsys.readouterr().err


def test_an_interruption_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_elmur.recording.command.record", interrupt)
    arguments = ["record", "--env", "TMazePassive10-v0", "--expert", "oracle", "--episodes", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["sb3-elmur", *arguments])
    with pytest.raises(SystemExit, match="130"):
        main()
    assert capsys.readouterr().err == "Interrupted.\n"


def test_an_unknown_command_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["sb3-elmur", "nonsense"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("bc", "--env", "TMazePassive-v0", "--data", "absent", "--n-epoch", "3"),
        ("evaluate", "absent.zip", "--episode", "3"),
        ("inspect", "absent.zip", "--env", "TMazePassive-v0", "--see", "3"),
        ("record", "--env", "TMazePassive-v0", "--expert", "oracle", "--output", "absent", "--episodes", "2", "--see", "3"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_options_are_not_abbreviated(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sb3-elmur", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert not list(tmp_path.iterdir())
    assert f"unrecognized arguments: {arguments[-2]} 3" in capsys.readouterr().err


BROKEN = """
import gymnasium


class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return len(3), {}


gymnasium.register("Broken-v0", entry_point=Broken)
"""


def test_errors_of_a_users_own_code_keep_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_env.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    arguments = ["record", "--gym-packages", "broken_env", "--env", "Broken-v0", "--expert", "random", "--episodes", "1"]
    monkeypatch.setattr(sys, "argv", ["sb3-elmur", *arguments, "--output", "data"])
    with pytest.raises(TypeError) as raised:
        main()
    assert any(Path(str(entry.path)).name == "broken_env.py" for entry in raised.traceback)

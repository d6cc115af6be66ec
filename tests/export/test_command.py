"""``sb3-elmur export``: models with and without statistics, and mistakes in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sb3_contrib import RecurrentPPO as HostRecurrentPPO
from stable_baselines3.common.vec_env import VecNormalize

from helpers import make_model, random_envs
from sb3_elmur import RecurrentPPO

pytest.importorskip("onnxruntime", reason='onnxruntime is missing: pip install "sb3-elmur[export]"')
pytest.importorskip("onnxscript")

from sb3_elmur.export.checking import Session
from sb3_elmur.export.command import main

GRU = {"core": "gru"}


@pytest.fixture(scope="module")
def normalized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip file of a model that was trained in a VecNormalize, with its statistics beside it."""
    folder = tmp_path_factory.mktemp("normalized")
    env = VecNormalize(random_envs(2))
    model = make_model(RecurrentPPO, env, policy_kwargs=GRU)
    model.learn(32)
    model.save(folder / "model.zip")
    (folder / "model").mkdir()
    env.save(str(folder / "model" / "vecnormalize.pkl"))
    return folder / "model.zip"


def test_the_statistics_beside_a_model_are_used(normalized: Path, capsys: pytest.CaptureFixture) -> None:
    main([str(normalized)])
    assert "vecnormalize.pkl" in capsys.readouterr().out
    session, model = Session(normalized.with_suffix(".onnx")), RecurrentPPO.load(normalized, device="cpu")
    normalize = VecNormalize.load(str(normalized.with_suffix("") / "vecnormalize.pkl"), random_envs(2))
    state, exported, starts = None, session.empty_state(2), np.array([True, True])
    for obs in np.random.default_rng(0).normal(size=(20, 2, 3)).astype(np.float32):
        action, _, exported = session.step(obs, starts, exported)
        expected, state = model.policy.predict(normalize.normalize_obs(obs), state, starts, deterministic=True)
        np.testing.assert_array_equal(action, expected)
        starts = np.array([False, False])


def refusal(capsys: pytest.CaptureFixture, *words: str) -> str:
    """What the command says before it exits with status 2."""
    with pytest.raises(SystemExit, match="2"):
        main(words)
    return capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*sees observations as they are")
def test_a_model_that_lacks_its_statistics_is_refused(normalized: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copy(normalized, tmp_path)
    assert "statistics" in refusal(capsys, str(tmp_path / "model.zip"))
    assert not list(tmp_path.glob("*.onnx"))


def test_mistakes_are_told(normalized: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "no_file.zip" in refusal(capsys, str(tmp_path / "no_file.zip"))
    assert "`--output`" in refusal(capsys, str(normalized), "-o", "policy.txt")
    HostRecurrentPPO("MlpLstmPolicy", random_envs(1)).save(tmp_path / "host.zip")
    assert "MlpLstmPolicy" in refusal(capsys, str(tmp_path / "host.zip")).replace(
        "RecurrentActorCriticPolicy", "MlpLstmPolicy"
    )


RUNS_ALONE = """
import sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
state = {i.name: np.zeros((1, *i.shape[1:]), types[i.type]) for i in session.get_inputs() if i.name.startswith("state.")}
session.run(None, {"observation": np.zeros((1, 3), np.float32), "episode_start": np.array([True]), **state})
assert not {"torch", "sb3_elmur"} & set(sys.modules)
"""


def test_a_file_needs_onnxruntime_alone(normalized: Path) -> None:
    main([str(normalized), "-o", str(normalized.with_name("alone.onnx"))])
    subprocess.run([sys.executable, "-c", RUNS_ALONE, str(normalized.with_name("alone.onnx"))], check=True)

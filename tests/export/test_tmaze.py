"""What a policy remembers over 10,000 steps, its exported file remembers."""

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason='onnxruntime is missing: pip install "sb3-elmur[export]"')
pytest.importorskip("onnxscript")

from deployment import by_file, by_predict, success, train

from sb3_elmur.export import export_policy


@pytest.mark.slow
def test_an_exported_policy_is_as_successful_at_10000_steps(tmp_path: Path) -> None:
    policy = train(tmp_path, n_epochs=25).policy
    export_policy(policy, tmp_path / "policy.onnx")
    by_model = success(by_predict(policy), length=10_000, n_episodes=20)
    assert by_model.mean() > 0.9
    assert (success(by_file(tmp_path / "policy.onnx"), length=10_000, n_episodes=20) == by_model).all()

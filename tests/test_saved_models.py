"""Models that were saved by earlier versions still load, and act as they did."""

from pathlib import Path

import numpy as np
import pytest
import sb3_contrib

import sb3_elmur

SAVED = Path(__file__).parent / "saved"


@pytest.mark.parametrize("cls", [sb3_elmur.RecurrentPPO, sb3_contrib.RecurrentPPO], ids=["ours", "host's"])
def test_a_model_of_version_0_1_0_acts_as_it_did(cls: type) -> None:
    model = cls.load(SAVED / "elmur_0.1.0.zip", device="cpu")
    expected = np.load(SAVED / "elmur_0.1.0_expected.npz")
    state = None
    for time, observation in enumerate(expected["observation"]):
        _, state = model.predict(observation, state=state, episode_start=np.full(2, time == 0), deterministic=True)
        logits = model.policy.action_dist.distribution.logits.detach().numpy()
        np.testing.assert_allclose(logits, expected["logits"][time], atol=1e-5)


def test_a_model_with_a_features_extractor_of_version_0_1_0_loads() -> None:
    model = sb3_elmur.RecurrentPPO.load(SAVED / "images_0.1.0.zip", device="cpu")
    assert type(model.policy.features_extractor).__name__ == "FourLayerExtractor"

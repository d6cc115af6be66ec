"""Features extractors of which nothing is trained: computed once for each episode, fitted before."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from cloning_helpers import equal, make_bc, parameters
from helpers import VECTOR, RandomEnv
from sb3_elmur import RecurrentPPO
from sb3_elmur.bc import BC, shrink_memory
from sb3_elmur.bc.callback import CloningMemoryCallback
from sb3_elmur.bc.command import main
from sb3_elmur.bc.features import FeatureEpisodes, fit_extractors
from sb3_elmur.encoders import ColorKeypoints, ColorKeypointsExtractor, FourLayerExtractor
from sb3_elmur.recording import record

IMAGES = spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "vector": VECTOR})


class Frozen(BaseFeaturesExtractor):
    """A convolution that is not trained, whose passes are counted."""

    def __init__(self, observation_space: gymnasium.Space) -> None:
        super().__init__(observation_space, 4)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())
        self.layers.requires_grad_(False)
        self.rows = 0

    def forward(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        self.rows += len(observations["image"])
        return self.layers(observations["image"])


def make(extractor: type[BaseFeaturesExtractor] = Frozen, **arguments: Any) -> BC:
    """A trainer of a policy that sees images and vectors."""
    policy_kwargs = {"features_extractor_class": extractor} | arguments.pop("policy_kwargs", {})
    return make_bc(observation_space=IMAGES, policy="ElmurMultiInputPolicy", policy_kwargs=policy_kwargs, **arguments)


def test_features_of_images_are_computed_once() -> None:
    trainer = make(n_epochs=3)
    trainer.train()
    assert trainer.policy.features_extractor.rows == trainer.episodes.lengths.sum()


def test_features_of_images_are_computed_once_for_all_numbers_of_slots() -> None:
    trainer = make(validation=0.3)
    trainer.train()
    extractor, smaller = (one.policy.features_extractor for one in (trainer, shrink_memory(trainer).trainer))
    assert extractor.rows == trainer.episodes.lengths.sum()
    assert smaller is extractor or smaller.rows == 0


def test_training_on_features_is_training_on_images() -> None:
    trainers = [make(validation=0.2) for _ in range(2)]
    trainers[1].features = None
    losses = []
    for trainer in trainers:
        trainer.train()
        losses.append(trainer.validate())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    th.testing.assert_close(parameters(trainers[0]), parameters(trainers[1]))


def test_features_that_are_there_are_taken_as_they_are() -> None:
    expected, trainer = make(), make()
    features = FeatureEpisodes(trainer.episodes, trainer.policy)
    given = BC(trainer.model, features, trainer.config)
    assert given.features is features
    expected.train()
    given.train()
    th.testing.assert_close(parameters(given), parameters(expected), rtol=0, atol=0)


def test_features_in_place_of_observations_are_nothing_for_the_memory_callback() -> None:
    trainer = make()
    given = BC(trainer.model, FeatureEpisodes(trainer.episodes, trainer.policy), trainer.config)
    with pytest.raises(ValueError, match=r"`episodes` of BC must hold observations .* Received FeatureEpisodes"):
        CloningMemoryCallback()(given)


def test_an_extractor_that_is_frozen_stays_as_it_is() -> None:
    trainer = make(weight_decay=0.5)
    before = {name: values.clone() for name, values in trainer.policy.features_extractor.state_dict().items()}
    trainer.train()
    assert equal(before, dict(trainer.policy.features_extractor.state_dict()))


def test_images_whose_extractor_is_trained_are_seen_anew_in_each_epoch() -> None:
    trainer = make(FourLayerExtractor)
    weights = trainer.policy.features_extractor.extractors["image"].cnn[0].weight
    before = weights.clone()
    trainer.train()
    assert trainer.features is None
    assert not th.equal(weights, before)


def test_observations_without_images_are_not_copied() -> None:
    assert make_bc().features is None


def test_features_are_those_of_evaluation() -> None:
    trainer = make()
    extractor = trainer.policy.features_extractor
    extractor.layers.append(nn.Dropout(0.5))
    trainer.policy.set_training_mode(True)
    features = FeatureEpisodes(trainer.episodes, trainer.policy)[1].observations
    assert extractor.training
    extractor.eval()
    obs = trainer.policy.obs_to_tensor(trainer.episodes[1].observations)[0]
    th.testing.assert_close(th.as_tensor(features), extractor({"image": obs["image"] / 255}))


def test_code_books_are_fitted_to_the_data() -> None:
    trainer = make(ColorKeypointsExtractor)
    keypoints = trainer.policy.features_extractor.extractors["image"]
    before = keypoints.colors.clone()
    fit_extractors(trainer.policy, trainer.episodes)
    assert not th.equal(keypoints.colors, before)
    assert trainer.features is not None
    trainer.train()


def test_actor_and_critic_with_extractors_of_their_own_are_both_fitted() -> None:
    apart = {"share_features_extractor": False, "separate_critic": True}
    trainer = make(ColorKeypointsExtractor, policy_kwargs=apart)
    fit_extractors(trainer.policy, trainer.episodes)
    pi, vf = trainer.policy.pi_features_extractor, trainer.policy.vf_features_extractor
    assert pi is not vf
    th.testing.assert_close(pi.state_dict(), vf.state_dict())


def test_the_command_fits_code_books_and_saves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gymnasium.registry, "Colors-v0", gymnasium.envs.registration.EnvSpec("Colors-v0", make_env))
    record("Colors-v0", "random", tmp_path / "data", n_episodes=4)
    extractor = "features_extractor_class:sb3_elmur.encoders.ColorKeypointsExtractor"
    words = ["--env", "Colors-v0", "--data", str(tmp_path / "data"), "-f", str(tmp_path), "--no-progress", "--device", "cpu"]
    settings = ["--policy", "ElmurMultiInputPolicy", "--policy-kwargs", extractor, "--n-epochs", "1", "--n-eval-episodes", "1"]
    main([*words, *settings])
    model = RecurrentPPO.load(tmp_path / "bc_elmur" / "Colors-v0_1" / "Colors-v0.zip")
    fitted = model.policy.features_extractor.extractors["image"]
    by_hand = ColorKeypoints(model.observation_space["image"])
    images = [np.load(path)["image"].transpose(0, 3, 1, 2) for path in sorted((tmp_path / "data").glob("*.npz"))]
    by_hand.fit(list(map(th.as_tensor, images)))
    th.testing.assert_close(fitted.state_dict(), by_hand.state_dict())


def make_env() -> RandomEnv:
    """An environment of images and vectors."""
    return RandomEnv(IMAGES, spaces.Discrete(3))

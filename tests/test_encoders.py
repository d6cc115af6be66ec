"""Properties of the features extractors for robots' cameras."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_elmur.encoders import FourLayerCNN, FourLayerExtractor

IMAGES = spaces.Box(0, 255, (6, 128, 128), np.uint8)
JOINTS = spaces.Box(-np.inf, np.inf, (25,), np.float32)


def test_four_convolutions_halve_the_image_each() -> None:
    encoder = FourLayerCNN(IMAGES, features_dim=7)
    filters = [layer.out_channels for layer in encoder.cnn if isinstance(layer, nn.Conv2d)]
    assert filters == [32, 64, 64, 128]
    images = th.rand(3, 6, 128, 128)
    assert encoder.cnn[:8](images).shape == (3, 128, 8, 8)
    assert encoder(images).shape == (3, encoder.features_dim) == (3, 7)


def test_the_order_of_memory_changes_neither_features_nor_gradients() -> None:
    images = th.rand(2, 6, 32, 32, dtype=th.float64)
    encoder = FourLayerCNN(spaces.Box(0, 255, (6, 32, 32), np.uint8)).double()
    gradients = []
    for cnn in (encoder, copy.deepcopy(encoder.cnn)):
        features = cnn(images)
        features.square().sum().backward()
        gradients.append([features, *(parameter.grad for parameter in cnn.parameters())])
    th.testing.assert_close(*gradients)


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (64, 48)])
def test_images_of_any_size_are_taken(size: tuple[int, int]) -> None:
    space = spaces.Box(0, 255, (3, *size), np.uint8)
    assert FourLayerCNN(space)(th.rand(2, 3, *size)).shape == (2, 256)


def test_other_values_stand_beside_the_images_features_as_they_are() -> None:
    space = spaces.Dict({"joints": JOINTS, "rgb": IMAGES})
    extractor = FourLayerExtractor(space, cnn_output_dim=10)
    observation = {"joints": th.randn(2, 25), "rgb": th.rand(2, 6, 128, 128)}
    features = extractor(observation)
    assert features.shape == (2, extractor.features_dim) == (2, 35)
    th.testing.assert_close(features[:, :25], observation["joints"])
    moved = extractor(observation | {"rgb": th.rand(2, 6, 128, 128)})
    assert (moved[:, 25:] != features[:, 25:]).any(dim=1).all()


def test_other_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="`observation_space` must be one of images"):
        FourLayerCNN(JOINTS)
    with pytest.raises(ValueError, match="`observation_space` must be a Dict"):
        FourLayerExtractor(IMAGES)

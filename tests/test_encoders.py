"""Properties of the features extractors for robots' cameras."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from torch import nn

from helpers import make_model, random_envs
from sb3_elmur import RecurrentPPO
from sb3_elmur.encoders import ColorKeypoints, ColorKeypointsExtractor, FourLayerCNN, FourLayerExtractor

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


# Colours

CAMERA = spaces.Box(0, 255, (3, 20, 30), np.uint8)
RED, GREEN, GREY = (250, 10, 10), (10, 250, 10), (128, 128, 128)


def painted(*blocks: tuple[tuple[int, int, int], slice, slice]) -> th.Tensor:
    """A grey image (1, 3, 20, 30) of uint8 with blocks of other colours."""
    image = th.tensor(GREY, dtype=th.uint8)[:, None, None].repeat(1, 20, 30)
    for color, rows, columns in blocks:
        image[:, rows, columns] = th.tensor(color, dtype=th.uint8)[:, None, None]
    return image[None]


def test_a_code_book_holds_colours_that_are_far_from_each_other() -> None:
    images = [painted((RED, slice(2, 4), slice(3, 6))), painted((GREEN, slice(8, 9), slice(9)))]
    encoder = ColorKeypoints(CAMERA, n_colors=3)
    encoder.fit(images)
    expected = th.tensor([GREY, GREEN, RED]) / 255
    th.testing.assert_close(encoder.colors[0], expected[0], atol=0.02, rtol=0)
    th.testing.assert_close(encoder.colors[1:].sort(0).values, expected[1:].sort(0).values, atol=0.02, rtol=0)


def test_colours_of_single_pixels_in_thousands_do_not_count() -> None:
    images = [painted()] * 200 + [painted((RED, slice(1), slice(1)))]
    encoder = ColorKeypoints(CAMERA, n_colors=2)
    encoder.fit(images)
    th.testing.assert_close(encoder.colors[0], encoder.colors[1])


def test_keypoints_say_how_much_of_a_colour_there_is_and_where() -> None:
    image = painted((RED, slice(15, 20), slice(0, 6)))
    encoder = ColorKeypoints(CAMERA, n_colors=2)
    encoder.fit([image])
    (log_mass, x, y) = encoder.locate(image / 255)[0, 3:]
    assert 25 < log_mass.exp() < 31  # of 30 pixels, whose colour lies beside that of the code book
    assert abs(x - (-1 + 2 * 2.5 / 29)) < 0.05
    assert abs(y - (-1 + 2 * 17 / 19)) < 0.05


def test_a_colour_that_is_not_there_is_in_the_middle() -> None:
    encoder = ColorKeypoints(CAMERA, n_colors=2)
    encoder.fit([painted((RED, slice(5), slice(5)))])
    th.testing.assert_close(encoder.locate(painted() / 255)[0, 3:], th.zeros(3), atol=1e-3, rtol=0)


def test_each_camera_has_its_own_keypoints() -> None:
    space = spaces.Box(0, 255, (6, 20, 30), np.uint8)
    left, right = painted((RED, slice(4), slice(7))), painted((GREEN, slice(5, 9), slice(7, 20)))
    encoder, alone = ColorKeypoints(space, n_colors=3), ColorKeypoints(CAMERA, n_colors=3)
    both = th.cat((left, right), dim=1)
    encoder.fit([both])
    alone.fit([left, right])
    th.testing.assert_close(encoder.colors, alone.colors)
    th.testing.assert_close(encoder.locate(both / 255), th.cat((alone.locate(left / 255), alone.locate(right / 255)), dim=1))


def test_features_of_the_images_that_it_was_fitted_to_have_mean_0_and_standard_deviation_1() -> None:
    images = [painted((RED, slice(row, row + 4), slice(2 * row, 2 * row + 4))) for row in range(10)]
    encoder = ColorKeypoints(CAMERA, n_colors=2)
    encoder.fit(images)
    places = encoder(th.cat(images) / 255)[:, 4:]  # x and y of red
    th.testing.assert_close(places.mean(0), th.zeros(2), atol=1e-4, rtol=0)
    th.testing.assert_close(places.std(0, correction=0), th.ones(2), atol=1e-4, rtol=0)


def test_moments_do_not_depend_on_how_many_images_come_at_once() -> None:
    images = [painted((RED, slice(i % 10, i % 10 + 4), slice(i % 20, i % 20 + 4))) for i in range(300)]
    one_by_one, together = ColorKeypoints(CAMERA, n_colors=2), ColorKeypoints(CAMERA, n_colors=2)
    one_by_one.fit(images)
    together.fit([th.cat(images)])
    th.testing.assert_close(one_by_one.state_dict(), together.state_dict())


def test_what_images_never_showed_is_clipped() -> None:
    encoder = ColorKeypoints(CAMERA, n_colors=2)
    encoder.fit([painted((RED, slice(4), slice(4)))] * 2)
    elsewhere = encoder(painted((RED, slice(10, 20), slice(10, 30))) / 255)
    assert elsewhere.abs().max() == 10.0


def test_code_books_are_fitted_to_each_image_of_a_dict() -> None:
    space = spaces.Dict({"far": CAMERA, "joints": JOINTS, "near": CAMERA})
    extractor = ColorKeypointsExtractor(space, n_colors=2)
    observation = {"far": painted((RED, slice(4), slice(4))), "near": painted((GREEN, slice(4), slice(4)))}
    extractor.fit([observation])
    assert extractor.extractors["far"].colors[1, 0] > 0.9
    assert extractor.extractors["near"].colors[1, 1] > 0.9
    features = extractor({"joints": th.ones(1, 25)} | {key: image / 255 for key, image in observation.items()})
    assert features.shape == (1, extractor.features_dim) == (1, 6 + 25 + 6)


def test_before_it_is_fitted_a_code_book_is_of_all_colours() -> None:
    assert th.pdist(ColorKeypoints(CAMERA).colors).min() > 0.5


def test_images_without_three_channels_for_each_camera_are_refused() -> None:
    for space in (JOINTS, spaces.Box(0, 255, (4, 20, 30), np.uint8)):
        with pytest.raises(ValueError, match="`observation_space` must be one of RGB images"):
            ColorKeypoints(space)
    with pytest.raises(ValueError, match=r"`n_colors`.* 0\."):
        ColorKeypoints(CAMERA, n_colors=0)


@pytest.mark.parametrize("algorithm", [RecurrentPPO, sb3_contrib.RecurrentPPO])
def test_a_code_book_is_saved_with_the_policy(algorithm: type, tmp_path: Path) -> None:
    space = spaces.Dict({"joints": spaces.Box(-1, 1, (2,)), "rgb": spaces.Box(0, 255, (20, 30, 3), np.uint8)})
    env = random_envs(1, space, spaces.Discrete(2))
    model = make_model(
        algorithm, env, "ElmurMultiInputPolicy", policy_kwargs={"features_extractor_class": ColorKeypointsExtractor}
    )
    model.policy.features_extractor.fit([{"rgb": painted((RED, slice(4), slice(4)))}])
    model.learn(1)
    model.save(tmp_path / "model.zip")
    loaded = algorithm.load(tmp_path / "model.zip")
    th.testing.assert_close(loaded.policy.features_extractor.state_dict(), model.policy.features_extractor.state_dict())
    observation = env.reset()
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )

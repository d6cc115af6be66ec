"""Features extractors for images of a robot's cameras."""

from collections.abc import Callable, Iterable, Sequence

import gymnasium
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import TensorDict
from torch import Tensor, nn

CHANNELS = (32, 64, 64, 128)
BANDWIDTH = 0.15  # of a colour, whose channels reach from 0 to 1
SHADES = 32  # of a channel that are told apart when colours are counted
NO_COLORS = th.zeros(SHADES**3, dtype=th.int64)  # counted
RARE = 1e-5  # share of the pixels; a colour that fills less is none
CLIP = 10.0  # standard deviations
CHUNK = 256  # images in which colours are found at once


class FourLayerCNN(BaseFeaturesExtractor):
    """
    Four convolutions of 32, 64, 64 and 128 channels, each of which halves height and width, and a linear layer.

    An alternative to :class:`stable_baselines3.common.torch_layers.NatureCNN`, which needs images of at least 36 x 36 pixels:
    this one takes any size, such as MiniGrid's 7 x 7, and any number of channels.

    :param observation_space: Of images (C, H, W).
    :param features_dim: Number of features.
    :param normalized_image: Whether the images are normalised already, so that neither type nor bounds are checked.
    :raises ValueError: If ``observation_space`` is another one.
    """

    def __init__(self, observation_space: gymnasium.Space, features_dim: int = 256, normalized_image: bool = False) -> None:
        if not is_image_space(observation_space, normalized_image=normalized_image):
            raise ValueError(f"`observation_space` must be one of images. Received {observation_space}.")
        assert observation_space.shape is not None
        super().__init__(observation_space, features_dim)
        layers: list[nn.Module] = []
        n_channels, height, width = observation_space.shape
        for n_filters in CHANNELS:
            layers += [nn.Conv2d(n_channels, n_filters, kernel_size=3, stride=2, padding=1), nn.ReLU()]
            n_channels, height, width = n_filters, (height + 1) // 2, (width + 1) // 2
        self.cnn = nn.Sequential(*layers, nn.Flatten(), nn.Linear(n_channels * height * width, features_dim), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        """
        Compute features.

        :param observations: Images (B, C, H, W), already divided by 255.
        :return: (B, features_dim).
        """
        return self.cnn(observations.contiguous(memory_format=th.channels_last))  # faster on CPUs


class ColorKeypoints(BaseFeaturesExtractor):
    """
    For each colour of a code book how much of it an image shows, and where: log(1 + m), and the mean place (x, y).

    A pixel's weight is exp(-d^2 / 0.15^2), d its distance from the colour. The mass m is the sum of the weights w, and a mean
    place is the sum of w (x, y) over 1 + m: that of a colour that is not there is the middle. It is the expected place of a
    spatial softmax (Finn et al. 2016, arXiv 1509.06113) with colours in place of learned channels, and made for things that
    differ in colour. Nothing in it is trained: :meth:`fit` takes the code book from images, and normalises features, since a
    thing moves by a small part of the image alone. Before, the code book is that of all colours.

    :param observation_space: Of images (C, H, W), three channels for each camera.
    :param n_colors: Colours (K) of the code book, 3 K numbers for each camera.
    :raises ValueError: If ``observation_space`` is another one, or ``n_colors`` no colour.
    """

    colors: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, observation_space: gymnasium.Space, n_colors: int = 8) -> None:
        shape = observation_space.shape
        if shape is None or not is_image_space(observation_space) or shape[0] % 3:
            raise ValueError(f"`observation_space` must be one of RGB images. Received {observation_space}.")
        if n_colors < 1:
            raise ValueError(f"`n_colors` must be at least 1. Received {n_colors}.")
        n_channels, height, width = shape
        super().__init__(observation_space, n_channels // 3 * n_colors * 3)
        x, y = th.linspace(-1, 1, width), th.linspace(-1, 1, height)
        places = th.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=2)
        self.register_buffer("places", places.flatten(0, 1), persistent=False)  # (pixels, 2)
        self.register_buffer("colors", farthest_colors(NO_COLORS + 1, n_colors))  # (K, 3)
        self.register_buffer("mean", th.zeros(self.features_dim))
        self.register_buffer("std", th.ones(self.features_dim))

    def fit(self, observations: Sequence[Tensor]) -> None:
        """
        Take the code book from images, and the mean and standard deviation of each feature.

        :param observations: Images (B, C, H, W) of uint8, any number of times.
        """
        self.take_colors(iter(observations))
        self.take_moments(iter(observations))

    def take_colors(self, observations: Iterable[Tensor]) -> None:
        """
        Take the code book: colours that are far from each other, beginning with the most frequent one.

        :param observations: See :meth:`fit`.
        """
        self.colors.copy_(farthest_colors(sum(map(count_colors, observations), NO_COLORS), len(self.colors)))

    @th.no_grad()
    def take_moments(self, observations: Iterable[Tensor]) -> None:
        """
        Take the mean and standard deviation of each feature.

        :param observations: See :meth:`fit`.
        """
        count, total, squares = 0, *th.zeros(2, self.features_dim, dtype=th.float64)
        for images in observations:
            for part in images.split(CHUNK):
                features = self.locate(part / 255).cpu().double()
                count, total, squares = count + len(features), total + features.sum(0), squares + features.square().sum(0)
        self.mean.copy_(mean := total / count)
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        self.std.copy_(std.clamp(min=1e-4))

    def forward(self, observations: Tensor) -> Tensor:
        """
        Compute features.

        :param observations: Images (B, C, H, W), already divided by 255.
        :return: What :meth:`locate` returns, normalised once :meth:`fit` has seen images, and clipped to +-10.
        """
        return ((self.locate(observations) - self.mean) / self.std).clamp(-CLIP, CLIP)

    def locate(self, observations: Tensor) -> Tensor:
        """
        Find the colours.

        :param observations: Images (B, C, H, W), already divided by 255.
        :return: (B, features_dim): of each camera and colour the log of its mass, x and y.
        """
        pixels = observations.unflatten(1, (-1, 3)).flatten(3)  # (B, C, H, W) -> (B, cameras, 3, pixels)
        colors = self.colors
        squares = pixels.square().sum(2, keepdim=True) + colors.square().sum(1)[:, None] - 2 * (colors @ pixels)
        weights = (-squares / BANDWIDTH**2).exp()  # (B, cameras, K, pixels)
        masses = 1 + weights.sum(3, keepdim=True)
        return th.cat((masses.log(), weights @ self.places / masses), dim=3).flatten(1)  # (B, cameras, K, 3) -> (B, ...)


def count_colors(images: Tensor) -> Tensor:
    """
    Count the pixels of each colour.

    :param images: (B, C, H, W) of uint8, three channels for each camera.
    :return: By 32 shades of red, green and blue, (32768,).
    """
    shades = (images.unflatten(1, (-1, 3)).long() * SHADES) // 256  # (B, cameras, 3, H, W)
    red, green, blue = shades.unbind(2)
    return th.bincount(((red * SHADES + green) * SHADES + blue).flatten(), minlength=SHADES**3).cpu()


def farthest_colors(counts: Tensor, n_colors: int) -> Tensor:
    """
    Sample the farthest colours: the most frequent one, then again and again the one farthest from all so far.

    :param counts: See :func:`count_colors`; colours of less than a hundred thousandth of the pixels do not count.
    :param n_colors: How many; if there are fewer, the last ones are alike.
    :return: (``n_colors``, 3), from 0 to 1.
    """
    (indices,) = th.where((counts > 0) & (counts >= RARE * counts.sum()))
    shades = th.stack((indices // SHADES**2, indices // SHADES % SHADES, indices % SHADES), dim=1)
    colors = (shades + 0.5) / SHADES  # (n, 3)
    chosen = [colors[counts[indices].argmax()]]
    distances = th.full((len(colors),), th.inf)  # to the nearest chosen one
    while len(chosen) < n_colors:
        distances = distances.minimum((colors - chosen[-1]).norm(dim=1))
        chosen.append(colors[distances.argmax()])
    return th.stack(chosen)


class _DictExtractor(BaseFeaturesExtractor):
    """
    The features of each image of a Dict observation, and the other values as they are, side by side.

    :param observation_space: Dict of images (C, H, W) and of whatever can be flattened.
    :param make: The extractor of an image's space.
    :param normalized_image: Whether images are normalised already, so that neither type nor bounds are checked.
    :raises ValueError: If ``observation_space`` is no Dict.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        make: Callable[[gymnasium.Space], BaseFeaturesExtractor],
        normalized_image: bool = False,
    ) -> None:
        if not isinstance(observation_space, spaces.Dict):
            raise ValueError(f"`observation_space` must be a Dict. Received {observation_space}.")
        extractors = {
            key: make(space) if is_image_space(space, normalized_image=normalized_image) else FlattenExtractor(space)
            for key, space in observation_space.items()
        }
        super().__init__(observation_space, sum(extractor.features_dim for extractor in extractors.values()))
        self.extractors = nn.ModuleDict(extractors)

    def forward(self, observations: TensorDict) -> Tensor:
        """
        Compute features.

        :param observations: By key, each (B, ...).
        :return: (B, features_dim).
        """
        return th.cat([extractor(observations[key]) for key, extractor in self.extractors.items()], dim=1)


class FourLayerExtractor(_DictExtractor):
    """
    The features of each image of a Dict observation, and the other values as they are, side by side.

    It does what :class:`stable_baselines3.common.torch_layers.CombinedExtractor` does, with :class:`FourLayerCNN`.

    :param observation_space: Dict of images (C, H, W) and of whatever can be flattened.
    :param cnn_output_dim: Number of features of each image.
    :param normalized_image: See :class:`FourLayerCNN`.
    :raises ValueError: If ``observation_space`` is no Dict.
    """

    def __init__(self, observation_space: gymnasium.Space, cnn_output_dim: int = 256, normalized_image: bool = False) -> None:
        super().__init__(
            observation_space, lambda space: FourLayerCNN(space, cnn_output_dim, normalized_image), normalized_image
        )


class ColorKeypointsExtractor(_DictExtractor):
    """
    :class:`ColorKeypoints` of each image of a Dict observation, and the other values as they are, side by side.

    :param observation_space: Dict of images (C, H, W), three channels for each camera, and of whatever can be flattened.
    :param n_colors: Colours of each image's code book.
    :raises ValueError: If ``observation_space`` is no Dict, or see :class:`ColorKeypoints`.
    """

    def __init__(self, observation_space: gymnasium.Space, n_colors: int = 8) -> None:
        super().__init__(observation_space, lambda space: ColorKeypoints(space, n_colors))

    def fit(self, observations: Sequence[TensorDict]) -> None:
        """
        Take code books and moments from observations, see :meth:`ColorKeypoints.fit`.

        :param observations: By key, each (B, ...), images of uint8; any number of times.
        """
        for key, part in self.extractors.items():
            if isinstance(part, ColorKeypoints):
                part.take_colors(observation[key] for observation in observations)
                part.take_moments(observation[key] for observation in observations)

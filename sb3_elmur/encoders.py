"""Features extractors for images of a robot's cameras."""

import gymnasium
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import TensorDict
from torch import Tensor, nn

CHANNELS = (32, 64, 64, 128)


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


class FourLayerExtractor(BaseFeaturesExtractor):
    """
    The features of each image of a Dict observation, and the other values as they are, side by side.

    It does what :class:`stable_baselines3.common.torch_layers.CombinedExtractor` does, with :class:`FourLayerCNN`.

    :param observation_space: Dict of images (C, H, W) and of whatever can be flattened.
    :param cnn_output_dim: Number of features of each image.
    :param normalized_image: See :class:`FourLayerCNN`.
    :raises ValueError: If ``observation_space`` is no Dict.
    """

    def __init__(self, observation_space: gymnasium.Space, cnn_output_dim: int = 256, normalized_image: bool = False) -> None:
        if not isinstance(observation_space, spaces.Dict):
            raise ValueError(f"`observation_space` must be a Dict. Received {observation_space}.")
        images = {key for key, space in observation_space.items() if is_image_space(space, normalized_image=normalized_image)}
        sizes = {
            key: cnn_output_dim if key in images else get_flattened_obs_dim(space) for key, space in observation_space.items()
        }
        super().__init__(observation_space, sum(sizes.values()))
        self.extractors = nn.ModuleDict(
            {
                key: FourLayerCNN(space, cnn_output_dim, normalized_image) if key in images else nn.Flatten()
                for key, space in observation_space.items()
            }
        )

    def forward(self, observations: TensorDict) -> Tensor:
        """
        Compute features.

        :param observations: By key, each (B, ...).
        :return: (B, features_dim).
        """
        return th.cat([extractor(observations[key]) for key, extractor in self.extractors.items()], dim=1)

"""Features extractors that are not trained: fitted to the data beforehand, and computed once for each episode."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import TensorDict
from torch import Tensor

from sb3_elmur.datasets.episodes import Episode, Episodes
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.spaces import as_dict, map_observations

CHUNK = 256  # steps whose features are computed at once


class ObservedEpisodes(Sequence[Tensor | TensorDict]):
    """
    The observations of a data set as extractors see them.

    :param episodes: The data set.
    :param policy: Makes tensors of them, see :meth:`ElmurPolicy.obs_to_tensor`.
    """

    def __init__(self, episodes: Episodes, policy: ElmurPolicy) -> None:
        self.episodes, self.policy = episodes, policy

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    def __getitem__(self, index: Any) -> Any:
        """Observations of an episode, each (T, ...)."""
        return self.policy.obs_to_tensor(self.episodes[index].observations)[0]


def fit_extractors(policy: ElmurPolicy, episodes: Episodes) -> None:
    """
    Fit the features extractors that have a method ``fit`` to the observations of a data set.

    :param policy: Whose extractors these are; ``fit`` is handed :class:`ObservedEpisodes`.
    :param episodes: The data set.
    """
    for extractor in {policy.pi_features_extractor, policy.vf_features_extractor}:
        if callable(fit := getattr(extractor, "fit", None)):
            fit(ObservedEpisodes(episodes, policy))


def has_frozen_images(policy: ElmurPolicy) -> bool:
    """
    Tell whether the actor sees images through an extractor of which nothing is trained.

    :param policy: Any.
    :return: Whether its features can be computed once.
    """
    observed = as_dict(getattr(policy.observation_space, "spaces", policy.observation_space))
    trained = any(parameter.requires_grad for parameter in policy.pi_features_extractor.parameters())
    return not trained and any(map(is_image_space, observed.values()))


def feature_space(policy: ElmurPolicy) -> spaces.Box:
    """
    The space of the actor's features.

    :param policy: Whose actor it is.
    :return: Without bounds.
    """
    return spaces.Box(-np.inf, np.inf, (policy.pi_features_extractor.features_dim,), np.float32)


def frozen_features(episodes: Episodes, policy: ElmurPolicy) -> Episodes | None:
    """
    The actor's features of a data set, if they stay the same in training and cost much.

    :param episodes: The data set, of observations or already of features.
    :param policy: Whose actor it is.
    :return: Features in place of observations; ``None`` if the actor sees no images, or learns to see them.
    """
    if not has_frozen_images(policy):
        return None
    return episodes if episodes.observation_space == feature_space(policy) else FeatureEpisodes(episodes, policy)


def check_same_spaces(episodes: Episodes, policy: ElmurPolicy) -> None:
    """
    Refuse a data set that was opened for other spaces than the policy has, bounds and channels of observations aside.

    :param episodes: The data set, whose observations may be the policy's features.
    :param policy: Who is trained.
    :raises ValueError: If one differs.
    """
    if episodes.action_space != policy.action_space:
        allowed = f"the action space of the policy, {policy.action_space}"
        raise ValueError(f"`episodes` must have {allowed}. Received {episodes.action_space}.")
    observed = episodes.observation_space
    if observed != feature_space(policy) and _outline(observed) != _outline(policy.observation_space):
        allowed = f"observations of the policy, {policy.observation_space}"
        raise ValueError(f"`episodes` must have {allowed}. Received {episodes.observation_space}.")


def _outline(space: spaces.Space) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _outline(entry) for key, entry in space.items()}
    return (space.dtype.kind, sorted(space.shape)) if isinstance(space, spaces.Box) else space


class FeatureEpisodes(Episodes):
    """
    A data set with the actor's features in place of observations, each computed once and kept in memory.

    :param episodes: The data set.
    :param policy: Its extractor computes them, as in evaluation.
    """

    def __init__(self, episodes: Episodes, policy: ElmurPolicy) -> None:
        super().__init__(feature_space(policy), policy.action_space, cache_bytes=sys.maxsize)
        self.episodes, self.policy, self.lengths = episodes, policy, episodes.lengths

    @th.no_grad()
    def _load(self, index: int) -> Episode:
        episode, extractor = self.episodes[index], self.policy.pi_features_extractor
        training = extractor.training
        extractor.eval()
        features = []
        for start in range(0, len(episode), CHUNK):
            part = slice(start, start + CHUNK)
            observations = map_observations(lambda values, part=part: values[part], episode.observations)
            features.append(self.policy.actor_features(self.policy.obs_to_tensor(observations)[0]).float().cpu().numpy())
        extractor.train(training)
        return replace(episode, observations=np.concatenate(features))

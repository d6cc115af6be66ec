"""Observations normalised by the statistics of a data set, with the ``VecNormalize`` that online training would use."""

from dataclasses import replace
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_elmur.datasets.episodes import Episode, Episodes
from sb3_elmur.spaces import map_observations


class NormalizedEpisodes(Episodes):
    """
    A data set with normalised observations.

    :param episodes: The data set as it was recorded.
    :param normalization: Its statistics, as :func:`fit_normalization` finds them.
    """

    def __init__(self, episodes: Episodes, normalization: VecNormalize) -> None:
        super().__init__(normalization.observation_space, normalization.action_space, cache_bytes=0)
        self.episodes, self.normalization, self.lengths = episodes, normalization, episodes.lengths

    def _load(self, index: int) -> Episode:
        episode = self.episodes[index]
        return replace(episode, observations=self.normalization.normalize_obs(episode.observations))


def fit_normalization(env: VecEnv, episodes: Episodes, **kwargs: Any) -> VecNormalize:
    """
    Wrap environments in a ``VecNormalize`` with the mean and variance of all observations of a data set.

    It leaves rewards alone and changes no more; set ``training`` to let it go on learning online.

    :param env: The environments.
    :param episodes: The data set, which is read once.
    :param kwargs: Of ``VecNormalize``, such as ``norm_obs_keys`` and ``clip_obs``.
    :return: The wrapped environments, which say how to normalise.
    :raises ValueError: If observations are neither a Box nor a Dict with the keys to normalise.
    """
    try:
        normalized = VecNormalize(env, **kwargs | {"training": False, "norm_obs": True, "norm_reward": False})
    except KeyError as error:
        raise ValueError(f"`norm_obs_keys` must be keys of {env.observation_space}. Received {error}.") from error
    for index in range(len(episodes)):
        observations: Any = episodes[index].observations
        map_observations(lambda statistics, values: statistics.update(values), normalized.obs_rms, observations)
    return normalized

"""
ELMUR (arXiv 2510.07151), a transformer with layer-local external memory, for Stable-Baselines3.

Importing this package makes the policies usable by name, ``RecurrentPPO("ElmurPolicy", env)``, and registers the
environments of :mod:`sb3_elmur.envs`.
"""

from importlib.metadata import version

from sb3_contrib import RecurrentPPO as _HostRecurrentPPO

from sb3_elmur import envs
from sb3_elmur.policies import ElmurCnnPolicy, ElmurMultiInputPolicy, ElmurPolicy
from sb3_elmur.ppo import RecurrentPPO

__version__ = version("sb3-elmur")
__all__ = ["ElmurCnnPolicy", "ElmurMultiInputPolicy", "ElmurPolicy", "RecurrentPPO", "__version__", "envs"]

_HostRecurrentPPO.policy_aliases.update(
    {policy.__name__: policy for policy in (ElmurPolicy, ElmurCnnPolicy, ElmurMultiInputPolicy)}
)

"""
ELMUR (arXiv 2510.07151), a transformer with layer-local external memory, for Stable-Baselines3.

Importing this package makes the policies usable by name, ``RecurrentPPO("ElmurPolicy", env)``, and registers the
environments of :mod:`sb3_elmur.envs`.
"""

from importlib.metadata import version
from pathlib import Path

from sb3_contrib import RecurrentPPO as _HostRecurrentPPO

# Installed, `envs` and `zoo_configs` lie inside this package. In a checkout, which shadows the installed package for a
# script at its root, they lie beside it.
if not (Path(__file__).parent / "envs").exists():
    __path__.append(str(Path(__file__).parents[1]))

from sb3_elmur import envs
from sb3_elmur.callbacks import MaskableEvalCallback, MemoryCallback
from sb3_elmur.models import resize_memory
from sb3_elmur.policies import ElmurCnnPolicy, ElmurMultiInputPolicy, ElmurPolicy
from sb3_elmur.ppo import RecurrentPPO

__version__ = version("sb3-elmur")
__all__ = [
    "ElmurCnnPolicy", "ElmurMultiInputPolicy", "ElmurPolicy", "MaskableEvalCallback", "MemoryCallback", "RecurrentPPO",
    "__version__", "envs", "resize_memory",
]  # fmt: skip

_HostRecurrentPPO.policy_aliases.update(
    {policy.__name__: policy for policy in (ElmurPolicy, ElmurCnnPolicy, ElmurMultiInputPolicy)}
)

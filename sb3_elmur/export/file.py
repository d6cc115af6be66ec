"""
A policy's step as an ONNX file.

=============================== ==================================== =====================================================
name                            shape and type                       what it is
=============================== ==================================== =====================================================
`observation`                   as its space, batch first            input; of Dict spaces one `observation.<key>` for each
`episode_start`                 (B,) bool                            input: true where an episode begins
`state.<field>`                 (B, ...) float32 or int64            inputs; anything, where an episode begins
`action`                        (B, ...) float32, or int64           output: the most probable one, as `predict` returns it
`value`                         (B,) float32                         output: the value of the observation
`next_state.<field>`            as `state.<field>`, in their order   outputs: the state for the next call
=============================== ==================================== =====================================================
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch.distributions import Distribution

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.export.checking import STATE, check_file, draw_observations
from sb3_elmur.export.policy_step import PolicyStep
from sb3_elmur.extras import require
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.spaces import as_dict

_OPSET = 20
_BATCH = 2  # of the example that is traced; another is as good, but 1


def export_policy(policy: BasePolicy, path: Path, normalize: VecNormalize | None = None) -> None:
    """
    Write a policy as an ONNX file, once the file has been found to act as the policy does.

    :param policy: One of this package, left as it is.
    :param path: Where the file goes; one of that name is replaced.
    :param normalize: Statistics by which the file normalises observations; ``None`` if it takes them as the policy does.
    :raises DependencyNotInstalled: Without onnx, onnxruntime or onnxscript.
    :raises TypeError: If the policy is of another package, or its core keeps a state that cannot be exported.
    :raises ValueError: If the step of its core cannot be exported, or the file does not act as the policy does.
    """
    require_onnx()
    if not isinstance(policy, ElmurPolicy):
        raise TypeError(f"`policy` must be one of sb3_elmur. Received {type(policy).__name__}.")
    policy = copy.deepcopy(policy).cpu().requires_grad_(False)
    policy.set_training_mode(False)
    for module in policy.modules():
        if isinstance(module, Elmur):
            module.run_eagerly()
    step = PolicyStep(policy, normalize).eval()
    with _tracing():
        program = _onnx_program(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        program.save(temporary)
        check_file(temporary, policy, normalize)


def require_onnx() -> None:
    """
    Fail early where no file could be written or checked.

    :raises DependencyNotInstalled: Without one of the packages.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export")


def _onnx_program(step: PolicyStep) -> Any:
    """PyTorch's ``ONNXProgram`` of a step, for any number of rows."""
    policy = step.policy
    drawn = draw_observations(policy.observation_space, _BATCH)
    observation = {key: th.as_tensor(values) for key, values in as_dict(drawn).items()}
    arguments = (observation, th.zeros(_BATCH, dtype=th.bool), step.initial_state(_BATCH))
    rows = {0: th.export.Dim("batch")}
    dynamic = (dict.fromkeys(observation, rows), rows, dict.fromkeys(arguments[2], rows))
    try:
        with th.no_grad():
            exported = th.export.export(step, arguments, dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # of tracing a core or features extractor that may be a user's, there is no end
        core, extractor = type(policy.backbone.core).__name__, type(policy.features_extractor).__name__
        raise ValueError(
            f"`policy` must have a step whose operations depend neither on values nor on the number of rows (`x.shape[0]` may "
            f"be used, `len(x)` not). Received one of {core} and {extractor}: {error}"
        ) from error
    keys = [f"observation.{key}" if isinstance(policy.observation_space, spaces.Dict) else key for key in observation]
    program: Any = th.onnx.export(
        exported,
        input_names=[*keys, "episode_start", *(STATE + name for name in arguments[2])],
        output_names=["action", "value", *(f"next_{STATE}{name}" for name in arguments[2])],
        opset_version=_OPSET,
        dynamo=True,
        verbose=False,
    )
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        value.shape[0] = "batch"
    metadata = {
        "sb3_elmur": version("sb3-elmur"),
        "core": type(policy.backbone.core).__name__,
        "observation_space": str(policy.observation_space),
        "action_space": str(policy.action_space),
        "normalizes_observations": str(bool(step.normalization.moments)),
    }
    program.model.metadata_props.update(metadata)
    return program


@contextmanager
def _tracing() -> Iterator[None]:
    """Without checks of distributions, which branch on values, and without what PyTorch says of its insides."""
    checks, silent = Distribution._validate_args, logging.root.manager.disable
    Distribution.set_default_validate_args(False)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Distribution.set_default_validate_args(checks)
        logging.disable(silent)

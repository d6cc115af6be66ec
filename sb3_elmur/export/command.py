"""The command ``sb3-elmur export``: a saved model as an ONNX file, with the statistics of normalisation that belong to it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import gymnasium
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_elmur.command_line import SettingsError, told_in_one_line
from sb3_elmur.export.file import export_policy, require_onnx
from sb3_elmur.models import load_model
from sb3_elmur.saved_statistics import STATISTICS_FILE, find_statistics, normalized, saw_normalized


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="sb3-elmur export",
        allow_abbrev=False,
        description="Write the policy of a saved model as an ONNX file, which onnxruntime runs without PyTorch: observation, "
        "state and episode start in; the most probable action, the value and the next state out. Statistics of VecNormalize "
        "that belong to the model become part of the file.",
    )
    parser.add_argument("model", type=Path, help="zip file of RecurrentPPO, trained online or cloned")
    parser.add_argument("-o", "--output", type=Path, help="the ONNX file (default: `<model>.onnx` beside the model)")
    return parser


@told_in_one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """
    Export a saved model.

    :param arguments: Command line; ``None`` means that of the process.
    """
    options = make_parser().parse_args(arguments)
    require_onnx()
    output = options.output or options.model.with_suffix(".onnx")
    if output.suffix != ".onnx":
        raise SettingsError(f"`--output` must end in .onnx. Received '{output}'.")
    model = load_model(options.model, "cpu")
    statistics = find_statistics(options.model, model)
    if statistics is None and saw_normalized(model):
        raise SettingsError(
            "`model` must have its statistics, since it was trained in a VecNormalize. There is no "
            f"'{options.model.with_suffix('') / STATISTICS_FILE}' for '{options.model}'."
        )
    normalize = None if statistics is None else read_statistics(model, statistics)
    export_policy(model.policy, output, normalize)
    print(f"{output}: observations {'as they are' if normalize is None else f'normalised by {statistics}'}")


def read_statistics(model: BaseAlgorithm, statistics: Path) -> VecNormalize | None:
    """
    The statistics of a model's observations.

    :param model: Whose observations they are.
    :param statistics: A file that ``VecNormalize.save`` wrote.
    :return: The statistics, or ``None`` if they are of rewards alone.
    :raises ValueError: If the file is damaged, or its statistics are of other observations.
    """
    assert model.observation_space is not None
    assert model.action_space is not None
    normalize = normalized(DummyVecEnv([lambda: _Spaces(model.observation_space, model.action_space)]), statistics)
    return normalize if normalize.norm_obs else None


class _Spaces(gymnasium.Env):
    """An environment of which nothing but the spaces is used."""

    def __init__(self, observation_space: gymnasium.Space, action_space: gymnasium.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

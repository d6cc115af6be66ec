"""The command ``sb3-elmur inspect``: an episode of a saved model, and a report of what its memory held, read and wrote."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_elmur.command_line import add_common_options, take_common_options, told_in_one_line
from sb3_elmur.core.arguments import check_count
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.inspection.episodes import FEWEST_EPISODES, Played, inspect_episodes, play
from sb3_elmur.inspection.events import find_events, summarise_slots, tell
from sb3_elmur.inspection.page import write_report
from sb3_elmur.inspection.probing import make_label
from sb3_elmur.models import load_model
from sb3_elmur.monitoring.monitor import memory_of
from sb3_elmur.monitoring.panels import require_drawing
from sb3_elmur.saved_statistics import as_in_training, find_statistics

INFO = "info"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="sb3-elmur inspect",
        allow_abbrev=False,
        description="Play an episode with a saved model, and report what its memory held, read and wrote: an HTML page and "
        "PNG files. The shown episode is seeded with `--seed`; the others follow.",
    )
    parser.add_argument("model", type=Path, help="zip file of RecurrentPPO with an ELMUR policy, trained online or cloned")
    parser.add_argument("--env", required=True, help="id of the environment")
    parser.add_argument(
        "--label", metavar="WHAT",
        help="what to look for in memory: a component of the first observation (`1`; of Dict observations `key:1`), or an "
        f"entry of the last info (`{INFO}:is_success`); linear probes decode it from every slot",
    )  # fmt: skip
    parser.add_argument(
        "--episodes", type=int, default=100,
        help="with `--label`, episodes that probes are fitted to, the shown one included (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--stochastic", action="store_true", help="draw actions instead of taking the most probable ones")
    parser.add_argument(
        "-o", "--output", type=Path, help="folder of the report (default: `<model>_inspection` beside the model)"
    )
    add_common_options(parser)
    return parser


@told_in_one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """
    Inspect an episode of a saved model.

    :param arguments: Command line; ``None`` means that of the process.
    """
    options = make_parser().parse_args(arguments)
    take_common_options(options)
    print(inspect(options))


def inspect(options: argparse.Namespace) -> str:
    """
    Inspect as the options say.

    :param options: Of :func:`make_parser`.
    :return: What was found, and where the report is.
    :raises ValueError: If an option or a file does not fit.
    :raises DependencyNotInstalled: Without matplotlib or jinja2.
    """
    require_drawing("jinja2")
    check_count("episodes", options.episodes, 1)
    if options.label is not None and options.episodes <= FEWEST_EPISODES:
        raise ValueError(
            f"`episodes` must be more than {FEWEST_EPISODES} with `label`, for probes. Received {options.episodes}."
        )
    model = load_model(options.model, options.device)
    policy: Any = model.policy
    config = memory_of(policy).config
    statistics = find_statistics(options.model, model)
    n_envs = 1 if options.label is None else options.episodes
    env = as_in_training(make_batch(options.env, n_envs, dict(options.env_kwargs)), statistics)
    try:
        played = play(policy, env, options.seed, not options.stochastic)
    finally:
        env.close()
    label = None if options.label is None else make_label(*find_label(options.label, played))
    inspection = inspect_episodes(policy, played, label)
    facts: dict[str, object] = {
        "model": options.model,
        "environment": " ".join([options.env, *(f"{key}={value!r}" for key, value in options.env_kwargs)]),
        "observations": "as they are" if statistics is None else f"normalised by {statistics}",
        "seed": options.seed,
        "actions": "drawn" if options.stochastic else "the most probable ones",
        "steps": int(played.lengths[0]),
        "segments": f"{len(inspection.slots)} of {config.segment_length} steps",
        "return": f"{played.rewards[0].sum():g}",
        **{key: value for key, value in played.last_infos[0].items() if key.endswith("success")},
        "memory": f"{config.n_layers} layers of {config.memory_size} slots, blend {config.blend}",
    }
    if label is not None:
        facts[f"{label.name} in this episode"] = label.classes[label.of[0]]
        facts["episodes that probes were fitted to"] = len(played.lengths)
    folder = options.output or options.model.with_name(f"{options.model.stem}_inspection")
    page = write_report(folder, f"Inside the memory: {options.env}", facts, played, inspection, label)
    lines = [f"{name}: {value}" for name, value in facts.items()]
    if label is not None:
        lines.append(tell(find_events(inspection, label), summarise_slots(inspection, label), label))
    return "\n".join([*lines, f"Report: {page}"])


def find_label(name: str, played: Played) -> tuple[str, np.ndarray]:
    """
    What a label is called, and its values in all episodes, (B,).

    :param name: As the user names it.
    :param played: The episodes.
    :return: Both.
    :raises ValueError: If there is nothing of that name.
    """
    key, _, rest = name.rpartition(":")
    if key == INFO:
        if any(rest not in info for info in played.last_infos):
            known = ", ".join(sorted(played.last_infos[0])) or "nothing"
            raise ValueError(f"`label` must name an entry of the last info. Received {name!r}; known are {known}.")
        try:
            return f"{rest} at the end", np.array([float(info[rest]) for info in played.last_infos])
        except (TypeError, ValueError) as error:
            raise ValueError(f"`label` must be a number at every episode's end. Received {name!r}: {error}") from error
    arrays: dict[str, Any] = played.observations if isinstance(played.observations, dict) else {"": played.observations}
    components = {
        f"{part}:{i}" if part else str(i): column
        for part, array in arrays.items()
        for i, column in enumerate(array[:, 0].reshape(len(array), -1).T)
    }
    if name not in components:
        some = ", ".join(list(components)[:8])
        raise ValueError(
            f"`label` must be a component of the first observation ({some}{', ...' if len(components) > 8 else ''}), or "
            f"`{INFO}:<key>`. Received {name!r}."
        )
    return f"component {name} of the first observation", components[name]

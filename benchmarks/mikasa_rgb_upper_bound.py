"""
An upper bound for RememberColor3 from images: a clone whose encoder was told by the simulator where each cube is.

    python benchmarks/mikasa_rgb_upper_bound.py                    # every agent and seed, one after the other
    python benchmarks/mikasa_rgb_upper_bound.py --agents elmur --seeds 0
    python benchmarks/mikasa_rgb_upper_bound.py --report           # a table of what is there

Results that are told nothing are those of ``mikasa_rgb.py``. Here the encoder is trained first, to say where each cube is: the
simulator's state is recorded beside the images. Then every motion serves once for each colour
(``mikasa_demonstrations.py``), so that nothing but the cue tells the answer: the images of the cue are filmed again with the
other colours in it. Demonstrations go to ``--data``, checkpoints and models to ``--runs``; filming and cloning go on where
they were interrupted. Results are ``benchmarks/results/mikasa_rgb_upper_bound/<agent>_<seed>.json``, and not repeated once
there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch as th
from common import RESULTS, markdown_table, provenance, write_json
from mikasa_bc import AGENTS, EVALUATION, clone, judge, two_phases
from mikasa_demonstrations import IMAGES, NOISE, THING, Answers, Cues, film_motions, read_answers, sights
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from sb3_elmur import RecurrentPPO
from sb3_elmur.datasets.episodes import NpzEpisodes
from sb3_elmur.datasets.normalizing import NormalizedEpisodes, fit_normalization
from sb3_elmur.encoders import FourLayerCNN, FourLayerExtractor
from sb3_elmur.settings import read_settings

FOLDER = RESULTS / "mikasa_rgb_upper_bound"
TASK, MOTIONS = "RememberColor3", 240
ENV_ID = f"Mikasa{TASK}-v0"
N_ENVS = 4
PHASES = two_phases(40, 15, batch_size=48)
SEEING = {"epochs": 15, "batch_size": 240, "learning_rate": 1e-3, "held out": 24}  # motions
POLICY = {"norm_first": True, "features_extractor_class": FourLayerExtractor}


def learn_to_see(encoder: FourLayerCNN, images: np.ndarray, shown: np.ndarray, rng: np.random.Generator) -> float:
    """
    Train an encoder to tell where each cube is.

    :param encoder: Of images.
    :param images: See :func:`sights`.
    :param shown: See :func:`sights`.
    :param rng: Shuffles.
    :return: Root of the mean squared distance between where cubes are and where they are said to be, in centimetres, in
        motions that were held out.
    """
    scale = shown.reshape(-1, shown.shape[-1]).std(axis=0) + 1e-3
    head = nn.Linear(encoder.features_dim, shown.shape[-1])
    optimizer = th.optim.Adam([*encoder.parameters(), *head.parameters()], SEEING["learning_rate"])
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, SEEING["epochs"])

    def say(pictures: np.ndarray) -> th.Tensor:
        return head(encoder(th.as_tensor(pictures).permute(0, 3, 1, 2).float() / 255.0))

    trained = len(images) - SEEING["held out"]
    pictures, places = images[:trained].reshape(-1, *images.shape[2:]), shown[:trained].reshape(-1, shown.shape[-1])
    for epoch in range(SEEING["epochs"]):
        losses = []
        for chosen in np.array_split(rng.permutation(len(pictures)), len(pictures) // SEEING["batch_size"]):
            loss = (say(pictures[chosen]) - th.as_tensor(places[chosen] / scale).float()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        print(f"encoder, epoch {epoch}: loss {np.mean(losses):.4f}", flush=True)
    with th.no_grad():
        said = np.stack([say(motion).numpy() for motion in images[trained:]]) * scale
    cubes, truth = (values.reshape(-1, shown.shape[-1] // THING, THING) for values in (said, shown[trained:]))
    there = truth[..., 0] > 0.5
    return round(float(100 * np.sqrt(np.square(cubes - truth)[there][:, 1:].sum(axis=1).mean())), 2)


def run(agent: str, seed: int, data: Path, runs: Path) -> None:
    """Record, train and evaluate, and write the result."""
    settings = read_settings("bc_elmur.yml", ENV_ID)
    policy_kwargs = settings["policy_kwargs"] | POLICY | AGENTS[agent]
    filmed = film_motions(TASK, MOTIONS, data)
    env = make_vec_env(ENV_ID, N_ENVS, env_kwargs=IMAGES)
    motions = NpzEpisodes(filmed.images, env.observation_space, env.action_space)
    normalized = fit_normalization(env, motions, norm_obs_keys=["joints"])
    answers = read_answers(motions, filmed.answers)
    episodes = NormalizedEpisodes(Answers(motions, Cues(motions, answers), answers), normalized)
    model = RecurrentPPO("ElmurMultiInputPolicy", normalized, policy_kwargs=policy_kwargs, seed=seed, device="cpu", verbose=1)
    start = time.process_time()
    encoder = model.policy.features_extractor.extractors["rgb"]
    error = learn_to_see(encoder, *sights(filmed), np.random.default_rng(seed))
    encoder.requires_grad_(False)
    trained_encoder = time.process_time()
    clone(model, episodes, settings, PHASES, runs / f"{agent.replace(' ', '_')}_{seed}")
    report = {
        "task": TASK,
        "agent": agent,
        "observation": IMAGES,
        "settings": settings | {"policy_kwargs": policy_kwargs | {"features_extractor_class": FourLayerExtractor.__name__}},
        "encoder": SEEING | {"error of held-out places, cm": error},
        "phases": PHASES,
        "demonstrations": {"recorded": MOTIONS, "noise": NOISE, "labelled": len(episodes)},
        "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
        "CPU seconds": {
            "encoder, of this process alone": round(trained_encoder - start, 1),
            "training, of this process alone": round(time.process_time() - trained_encoder, 1),
        },
        "evaluation": EVALUATION,
        **judge(model.policy, model.get_env()),
        **provenance(seed),
    }
    write_json(result_path(agent, seed), report)
    normalized.close()


def result_path(agent: str, seed: int) -> Path:
    """Where a result goes."""
    return FOLDER / f"{agent.replace(' ', '_')}_{seed}.json"


def report() -> None:
    """Print a table of all results."""
    rows = []
    for path in sorted(FOLDER.glob("*.json")):
        result = json.loads(path.read_text())
        low, high = result["95% interval"]
        seconds = round(result["CPU seconds"]["training, of this process alone"])
        shown = f"{result['success once']:.2f} ({low:.2f} to {high:.2f})"
        rows.append([result["agent"], result["seed"], result["demonstrations"]["recorded"], seconds, shown])
    print(markdown_table(["agent", "seed", "motions", "training, CPU s", "success (95 % interval)"], rows))


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=["elmur", "no memory"], metavar="AGENT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "sb3-elmur-mikasa", help="demonstrations")
    parser.add_argument("--runs", type=Path, default=Path("logs") / "mikasa_rgb_upper_bound", help="checkpoints")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options = parser.parse_args()
    th.set_num_threads(1)
    if not options.report:
        for seed, agent in itertools.product(options.seeds, options.agents):
            if not result_path(agent, seed).exists():
                run(agent, seed, options.data, options.runs)
    report()


if __name__ == "__main__":
    main()

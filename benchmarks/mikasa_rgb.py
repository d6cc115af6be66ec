"""
Behaviour cloning of MIKASA-Robo tasks from images and joints, told nothing else.

    python benchmarks/mikasa_rgb.py                                       # RememberColor3, every agent and seed
    python benchmarks/mikasa_rgb.py --tasks TakeItBack --agents elmur lstm --seeds 0 1 2
    python benchmarks/mikasa_rgb.py --report                              # a table of what is there

The policies see the colours' places (:class:`sb3_elmur.encoders.ColorKeypointsExtractor`), whose code book is taken from the
pixels of the demonstrations, or, where shapes differ, what ``mikasa_seeing.py`` learns to say of them. Beginnings of motions
are recorded: the cue, the empty table, and the way to the thing. With five and nine cubes, and with shapes, every motion
serves once for each answer (``mikasa_demonstrations.py``).
Success at any step is what counts, so that an episode of the evaluation, of the task's full length, ends once it has come.

Demonstrations go to ``--data``, checkpoints, models and unfinished evaluations to ``--runs``; recording, training and
evaluation go on where they were interrupted. Every result is ``benchmarks/results/mikasa_rgb/<task>_<agent>_<seed>.json``,
and is not repeated once it is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from common import RESULTS, provenance, write_json
from mikasa_bc import AGENTS, EPISODES, EVALUATION, EVALUATION_SEED, PLAIN, Phases, clone, report, run_name
from mikasa_demonstrations import IMAGES, NOISE, Answers, Cues, film_motions, read_answers
from mikasa_seeing import SETTINGS, AnswersExtractor, learn_answers
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv

from sb3_elmur import RecurrentPPO
from sb3_elmur.bc.features import FeatureEpisodes, fit_extractors
from sb3_elmur.datasets.episodes import Episodes, NpzEpisodes
from sb3_elmur.datasets.normalizing import NormalizedEpisodes, fit_normalization
from sb3_elmur.encoders import ColorKeypointsExtractor
from sb3_elmur.evaluation import wilson_interval
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.recording import record
from sb3_elmur.settings import read_settings

FOLDER = RESULTS / "mikasa_rgb"


class Task(NamedTuple):
    """
    What differs between the tasks.

    :param motions: That are recorded.
    :param n_colors: Of the code book; 0 for things that differ in shape, for which ``mikasa_seeing.py`` learns to see.
    :param phases: Of training, with what they change in the settings of ``bc_elmur.yml``.
    :param answers: Whether each motion serves once for every answer.
    :param steps: That are recorded of each motion, the first ones.
    :param noise: Of each motion its own share of random actions.
    :param only_successful: Whether motions that fail are left out.
    """

    motions: int
    n_colors: int
    phases: Phases = PLAIN
    answers: bool = False
    steps: int = 28
    noise: tuple[float, float] = NOISE
    only_successful: bool = False


LARGE_BATCHES = {"batch_size": 96, "learning_rate": 2e-3, "warmup": 0.1}
BEGINNINGS = {"beginnings": (16, LARGE_BATCHES | {"n_epochs": 40, "learning_rate": 3e-3})}  # nine colours need them
HALF = (0.0, 0.5)  # with answers no motion tells anything, and fewer random actions bring more of them down to a cube
TASKS = {
    "RememberColor3": Task(600, 8),
    "RememberColor5": Task(400, 12, {"whole": (None, LARGE_BATCHES | {"n_epochs": 36})}, answers=True, steps=40, noise=HALF),
    "RememberColor9": Task(
        1000, 16, BEGINNINGS | {"whole": (None, LARGE_BATCHES | {"n_epochs": 20})}, answers=True, steps=40, noise=HALF
    ),
    "RememberShape3": Task(1000, 0, {"whole": (None, LARGE_BATCHES | {"n_epochs": 24})}, answers=True, steps=40, noise=HALF),
    "TakeItBack": Task(400, 12, {"whole": (None, {"bptt_segments": 8})}, steps=100, noise=(0.0, 0.3), only_successful=True),
}


def run(task: str, agent: str, seed: int, data: Path, runs: Path) -> None:
    """Record, train and evaluate, and write the result."""
    env_id, chosen, folder = f"Mikasa{task}-v0", TASKS[task], runs / run_name(task, agent, seed)
    settings = read_settings("bc_elmur.yml", env_id)
    settings["policy_kwargs"] |= {"norm_first": True, **AGENTS[agent]}
    env = make_vec_env(env_id, 1, env_kwargs=IMAGES)
    recorded, answers = demonstrate(task, data, env)
    normalized = fit_normalization(env, recorded, norm_obs_keys=["joints"])
    start = time.process_time()
    policy_kwargs = settings["policy_kwargs"] | extractor(chosen, answers)
    model = RecurrentPPO("ElmurMultiInputPolicy", normalized, policy_kwargs=policy_kwargs, seed=seed, device="cpu", verbose=1)
    prepare(model, recorded, answers, runs / f"{task}_{chosen.motions}_motions_seeing_{seed}.pt")
    demonstrations: Episodes = see(recorded, model)
    if answers is not None:
        demonstrations = Answers(demonstrations, see(Cues(recorded, answers), model), answers)
    clone(model, demonstrations, settings, chosen.phases, folder)
    trained = time.process_time() - start
    write_json(
        FOLDER / f"{run_name(task, agent, seed)}.json",
        {
            "task": task,
            "agent": agent,
            "observation": IMAGES,
            "settings": settings,
            "code book": code_book(model.policy.features_extractor),
            "seeing": None if chosen.n_colors else SETTINGS,
            "demonstrations": chosen._asdict() | {"recorded": len(recorded), "labelled": len(demonstrations)},
            "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
            "CPU seconds": {"training, of this process alone": round(trained, 1)},
            "evaluation": EVALUATION,
            **judge(model.policy, normalized, folder / "evaluation.json"),
            **provenance(seed),
        },
    )
    env.close()


def demonstrate(task: str, data: Path, env: VecEnv) -> tuple[NpzEpisodes, list[dict[str, np.ndarray]] | None]:
    """
    Record motions.

    :param task: One of ``TASKS``.
    :param data: Folder for all.
    :param env: Of the task, for its spaces.
    :return: The motions, and for each what it would be for every answer, if the task asks for that.
    """
    chosen = TASKS[task]
    if chosen.answers:
        filmed = film_motions(task, chosen.motions, data, chosen.steps, chosen.noise)
        recorded = NpzEpisodes(filmed.images, env.observation_space, env.action_space)
        return recorded, read_answers(recorded, filmed.answers)
    images, kwargs = data / f"{task}_rgb_{chosen.steps}_steps", IMAGES | {"max_episode_steps": chosen.steps}
    record(
        f"Mikasa{task}-v0",
        "oracle",
        images,
        chosen.motions,
        noise=chosen.noise,
        env_kwargs=kwargs,
        only_successful=chosen.only_successful,
        progress_bar=True,
    )
    return NpzEpisodes(images, env.observation_space, env.action_space), None


def extractor(chosen: Task, answers: Sequence[dict[str, np.ndarray]] | None) -> dict[str, Any]:
    """Arguments of a policy that say how it sees."""
    if chosen.n_colors:
        return {
            "features_extractor_class": ColorKeypointsExtractor,
            "features_extractor_kwargs": {"n_colors": chosen.n_colors},
        }
    assert answers is not None
    kwargs = {"n_answers": len(answers[0]["action"])}
    return {"features_extractor_class": AnswersExtractor, "features_extractor_kwargs": kwargs}


def prepare(model: RecurrentPPO, recorded: Episodes, answers: Sequence[dict[str, np.ndarray]] | None, path: Path) -> None:
    """Fit a model's extractor to the motions, or let it learn from their answers: once for all agents, kept at a path."""
    seeing, episodes = model.policy.features_extractor, NormalizedEpisodes(recorded, model.get_vec_normalize_env())
    if isinstance(seeing, AnswersExtractor):
        learn_answers(seeing, episodes, answers, model.seed, path)
    else:
        fit_extractors(model.policy, episodes)


def code_book(seeing: BaseFeaturesExtractor) -> list[list[int]] | None:
    """The colours that an extractor knows, if it knows some."""
    if not isinstance(seeing, ColorKeypointsExtractor):
        return None
    return (255 * seeing.extractors["rgb"].colors).round().int().tolist()


def see(episodes: Episodes, model: RecurrentPPO) -> FeatureEpisodes:
    """The features of episodes as the environment of a model normalises them, each image seen once."""
    normalization = model.get_vec_normalize_env()
    assert normalization is not None
    return FeatureEpisodes(NormalizedEpisodes(episodes, normalization), model.policy)


def judge(policy: ElmurPolicy, env: VecEnv, path: Path) -> dict[str, Any]:
    """Success of the most probable actions in the episodes of evaluation, whose outcomes are noted one by one."""
    outcomes: list[bool] = json.loads(path.read_text())["outcomes"] if path.exists() else []
    while len(outcomes) < EPISODES:
        outcomes.append(succeeds(policy, env, EVALUATION_SEED + len(outcomes)))
        write_json(path, {"outcomes": outcomes})
    success = float(np.mean(outcomes))
    return {"success once": success, "95% interval": [round(bound, 4) for bound in wilson_interval(success, EPISODES)]}


def succeeds(policy: ElmurPolicy, env: VecEnv, seed: int) -> bool:
    """Whether an episode succeeds, which ends there."""
    env.seed(seed)
    observation: Any = env.reset()
    state, ended, infos = None, np.ones(1, dtype=bool), [{"is_success": False}]
    while state is None or not (ended.any() or infos[0]["is_success"]):
        actions, state = policy.predict(observation, state, ended, deterministic=True)
        observation, _, ended, infos = env.step(actions)
    return bool(infos[0]["is_success"])


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["RememberColor3"], metavar="TASK")
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS), metavar="AGENT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "sb3-elmur-mikasa", help="demonstrations")
    parser.add_argument("--runs", type=Path, default=Path("logs") / "mikasa_rgb", help="checkpoints")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options = parser.parse_args()
    th.set_num_threads(1)
    if not options.report:
        for task, seed, agent in itertools.product(options.tasks, options.seeds, options.agents):
            if not (FOLDER / f"{run_name(task, agent, seed)}.json").exists():
                run(task, agent, seed, options.data, options.runs)
    report(FOLDER, TASKS)


if __name__ == "__main__":
    main()

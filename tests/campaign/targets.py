"""What is damaged: data sets, settings, records, walks, statistics, checkpoints and models, each with what reads it."""

import io
import json
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

from campaign.mutation import Target
from cloning_helpers import make_bc
from corridor_helpers import corridor_policy
from helpers import ACTION_SPACES, TURN, UNBOUNDED, VECTOR, RandomEnv, episode_arrays, make_model, random_envs
from sb3_elmur import RecurrentPPO
from sb3_elmur.bc.options import parse
from sb3_elmur.comparison.cells import make_cells
from sb3_elmur.comparison.matrix import read_matrix
from sb3_elmur.comparison.results import Results
from sb3_elmur.datasets import NpzEpisodes, open_episodes
from sb3_elmur.evaluation import Corridors
from sb3_elmur.evaluation.record import Record, load_walk, save_walk, summarise
from sb3_elmur.models import load_model
from sb3_elmur.recording import record
from sb3_elmur.recording.writers import SETTINGS
from sb3_elmur.saved_statistics import normalized
from sb3_elmur.settings import find_class, packaged, read_settings
from sb3_elmur.zoo.checks import checked_policy_arguments, checked_settings

TMAZE = "TMazePassive30-v0"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def make_targets(folder: Path, scale: float) -> list[Target]:
    """
    All kinds of files.

    :param folder: Where the originals are made.
    :param scale: Share of the full numbers of files.
    """
    data = (_npz, _minari, _records, _walks, _recordings, _results, _statistics, _checkpoints, _models)
    settings = (_bc_yaml, _zoo_yaml, _matrix_yaml)
    targets = []
    for maker in (*data, *settings):
        place = folder / maker.__name__
        place.mkdir()
        target = maker(place)
        for original in target.originals:
            path = place / f"original{target.suffix}"
            path.write_bytes(original)
            assert target.read(path), target.name
            path.unlink()
        targets.append(target._replace(count=max(1, round(scale * target.count))))
    return targets


def _npz(folder: Path) -> Target:
    arrays = episode_arrays()
    originals = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **arrays)
        originals.append(file.getvalue())

    def read(path: Path) -> bool:
        episode = NpzEpisodes(path.parent, UNBOUNDED, TURN)[0]
        return all(
            np.array_equal(one, other)
            for one, other in zip((episode.observations, episode.actions, episode.rewards), arrays.values(), strict=True)
        )

    return Target("npz", originals, ".npz", read, 100_000)


def _minari(folder: Path) -> Target:
    env = random_envs(1)
    data = folder / "random-v0"
    record(lambda: RandomEnv(VECTOR, ACTION_SPACES[0]), "random", data, 2, format="minari")
    (file,) = data.rglob("*.hdf5")
    originals = [episode.observations for episode in open_episodes(data, env.observation_space, env.action_space)]

    def read(path: Path) -> bool:
        shutil.copy(path, file)
        for episode in open_episodes(data, env.observation_space, env.action_space):
            assert any(episode.observations.shape[1:] == one.shape[1:] for one in originals)
        return True  # HDF5 has no checksums: other numbers of the spaces cannot be told

    return Target("minari", [file.read_bytes()], ".hdf5", read, 5_000)


def _bc_yaml(folder: Path) -> Target:
    def read(path: Path) -> bool:
        parse(["--env", TMAZE, "--data", "data", "--conf-file", str(path)])
        return True

    return Target("bc_yaml", [_part(packaged("bc_elmur.yml"), TMAZE)], ".yml", read, 5_000, text=True)


def _zoo_yaml(folder: Path) -> Target:
    def read(path: Path) -> bool:
        settings = checked_settings(RecurrentPPO, read_settings(path, TMAZE))
        policy = find_class(settings["policy"]) or settings["policy"]
        checked_policy_arguments(RecurrentPPO, policy, settings.get("policy_kwargs"))
        return True

    return Target("zoo_yaml", [_part(packaged("ppo_elmur.yml"), TMAZE)], ".yml", read, 5_000, text=True)


def _part(path: Path, env_id: str) -> bytes:
    """The settings of one environment, as text, so that changes hit what is read."""
    lines = path.read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(f"{env_id}:"))
    end = next((i for i in range(begin + 1, len(lines)) if lines[i][:1] not in ("", " ", "#")), len(lines))
    return "\n".join(lines[begin:end]).encode() + b"\n"


def _records(folder: Path) -> Target:
    settings = {"env": TMAZE, "n_episodes": 8}
    originals = []
    lengths = Record(folder / "lengths.json", settings)
    lengths.results["30"] = summarise({"is_success": np.array([True, False])})
    lengths.save(100)
    episodes = Record(folder / "episodes.json", settings)
    episodes.add_episodes([{"return": 1.0, "length": 3, "is_success": 1.0}, {"return": 0.0, "length": 4, "is_success": 0.0}])
    originals = [path.read_bytes() for path in sorted(folder.iterdir())]

    def read(path: Path) -> bool:
        content = Record(path, settings)
        content.table()
        if content.episodes:
            content.add_episodes([{"return": 1.0, "length": 3}])
        return True

    return Target("evaluation_record", originals, ".json", read, 10_000, text=True)


def _walks(folder: Path) -> Target:
    policy, settings = corridor_policy(segment_length=3), {"seed": 1}
    corridors = Corridors(policy, [4, 30], 6, seed=1)
    for _ in range(3):
        corridors.advance()
    original = corridors.walk
    save_walk(folder / "walk.npz", original, settings)

    def read(path: Path) -> bool:
        walk = load_walk(path, settings, policy.initial_memories(6)[0])
        return _same(walk.memory, original.memory) and np.array_equal(walk.late, original.late)

    return Target("walk", [(folder / "walk.npz").read_bytes()], ".npz", read, 10_000)


def _recordings(folder: Path) -> Target:
    record(TMAZE, "oracle", folder, 1)

    def read(path: Path) -> bool:
        shutil.copy(path, folder / SETTINGS)
        record(TMAZE, "oracle", folder, 1)
        return True

    return Target("recording_json", [(folder / SETTINGS).read_bytes()], ".json", read, 2_000, text=True)


def _results(folder: Path) -> Target:
    matrix = read_matrix(BENCHMARKS / "matrices" / "tmaze_online.yml")
    original = next(cell.path for cell in make_cells(matrix, BENCHMARKS / "results") if cell.path.exists())
    (cell,) = (cell for cell in make_cells(matrix, folder) if cell.path.name == original.name)
    cell.path.parent.mkdir()
    content = json.dumps({**json.loads(original.read_text()), "plan": cell.plan()}).encode()

    def read(path: Path) -> bool:
        shutil.copy(path, cell.path)
        report = cell.read()
        assert report is not None
        results = Results(matrix, 1, (), {(cell.env.env_id, cell.agent.name): [report]})
        return bool(np.isfinite(results.values(cell.env, cell.agent.name)).all())

    return Target("comparison_result", [content], ".json", read, 5_000, text=True)


def _matrix_yaml(folder: Path) -> Target:
    def read(path: Path) -> bool:
        make_cells(read_matrix(path), folder)
        return True

    return Target("matrix_yaml", [(BENCHMARKS / "matrices" / "tmaze_online.yml").read_bytes()], ".yml", read, 1_000, text=True)


def _statistics(folder: Path) -> Target:
    env = VecNormalize(random_envs(2, VECTOR))
    env.reset()
    env.save(str(folder / "vecnormalize.pkl"))
    plain = random_envs(2, VECTOR)

    def read(path: Path) -> bool:
        normalized(plain, path).normalize_obs(np.zeros((2, 3), np.float32))
        return True

    return Target("vecnormalize", [(folder / "vecnormalize.pkl").read_bytes()], ".pkl", read, 10_000)


def _checkpoints(folder: Path) -> Target:
    trainer = make_bc(n_epochs=1)
    trainer.train(folder)
    weights = [tensor.clone() for tensor in trainer.policy.state_dict().values()]

    def read(path: Path) -> bool:
        shutil.copy(path, folder / "checkpoint.pt")
        trainer.train(folder)  # it has ended: nothing but the checkpoint is read
        return _same(trainer.policy.state_dict().values(), weights)

    return Target("checkpoint", [(folder / "checkpoint.pt").read_bytes()], ".pt", read, 5_000)


def _models(folder: Path) -> Target:
    model = make_model(RecurrentPPO, random_envs(1))
    model.save(folder / "model")
    weights = list(model.policy.state_dict().values())

    def read(path: Path) -> bool:
        return _same(load_model(path, "cpu").policy.state_dict().values(), weights)

    return Target("model", [_without_code(folder / "model.zip")], ".zip", read, 5_000)


def _without_code(path: Path) -> bytes:
    """The bytes of a model; its CRCs see to it that no changed pickle runs."""
    assert zipfile.ZipFile(path).testzip() is None
    return path.read_bytes()


def _same(tensors: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(th.equal(one, other) for one, other in zip(tensors, others, strict=True))

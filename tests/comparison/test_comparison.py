"""Comparisons: matrix files, resuming, statistics, and one tiny cell of each algorithm."""

import json
import math
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rliable import metrics
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from helpers import IMAGE, VECTOR, RandomEnv
from sb3_elmur import RecurrentPPO
from sb3_elmur.comparison import cells, command, figures, statistics
from sb3_elmur.comparison.algorithm import Trained
from sb3_elmur.comparison.algorithms import ALGORITHMS
from sb3_elmur.comparison.cells import Cell, compute, data_folder, make_cells, record_data
from sb3_elmur.comparison.cloning import epochs_within
from sb3_elmur.comparison.evaluation import make_monitored
from sb3_elmur.comparison.matrix import Agent, Budget, Demonstrations, Environment, Matrix, Score, read_matrix, select
from sb3_elmur.comparison.report import write_report
from sb3_elmur.comparison.results import read_results
from sb3_elmur.comparison.runner import Cluster, run, run_cells
from sb3_elmur.comparison.settings import resolve
from sb3_elmur.comparison.success import may_report_success
from sb3_elmur.comparison.wrappers import Wrappers
from sb3_elmur.settings import read_file

MATRICES = sorted((Path(__file__).parents[2] / "benchmarks" / "matrices").glob("*.yml"))
ONLINE: dict[str, Any] = {
    "kind": "online", "envs": ["TMazePassive30-v0"], "agents": {"elmur": {}}, "seeds": [0, 1], "n_eval_episodes": 2,
}  # fmt: skip
SMALL = {"d_model": 8, "n_heads": 2, "n_layers": 1}


def write(folder: Path, **changes: Any) -> Path:
    """A matrix file: :data:`ONLINE` with changes; ``None`` deletes a key."""
    path = folder / "made.yml"
    content = {key: value for key, value in (ONLINE | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def scripted_cell(folder: Path, expert: str = "oracle") -> Cell:
    """A cell that is computed in no time."""
    env = Environment("TMazePassive10-v0", "", ("TMazePassive10-v0", "TMazePassive30-v0"), False, Score(), None, None, {})
    return Cell(env, Agent(expert, expert, {}), 0, ALGORITHMS["online"][expert], {}, 4, folder / f"{expert}.json")


# Matrix files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "Unknown key of made.yml: 'colour'. Known are kind, envs, agents,"),
        ({"seeds": None}, "made.yml needs the key `seeds`"),
        ({"seeds": ["a"]}, r"`seeds.0` of made.yml: .* valid integer. Received 'a'"),
        ({"seeds": [-1]}, r"`seeds.0` of made.yml: .* Received -1"),
        ({"agents": {}}, "`agents` of made.yml: .* at least 1"),
        ({"packages": ["absent_package"]}, "must name packages that can be imported. Received 'absent_package'"),
        ({"seeds": [1, 1]}, "`seeds` must be different numbers"),
        ({"kind": "offline"}, "`kind` of made.yml: .*'online' or 'bc'. Received 'offline'"),
        ({"budget": {"steps": 1}}, "`budget` is for `kind: bc`"),
        ({"kind": "bc"}, "needs the key `episodes`"),
        ({"kind": "bc", "demonstrations": {"episodes": 1}, "budget": {}}, "`budget` must be a number of `steps` or"),
        ({"n_eval_episodes": True}, "`n_eval_episodes` of made.yml: .* valid integer. Received True"),
        ({"n_eval_episodes": 0}, "`n_eval_episodes` of made.yml: .* Received 0"),
        ({"envs": ["Unheard-v0"]}, "must be registered ids. Unknown are Unheard-v0"),
        ({"envs": [{"TMazePassive30-v0": {"evaluate": ["Unheard-v1"]}}]}, "Unknown are Unheard-v1"),
        ({"envs": ["TMazePassive30-v0"] * 2}, "must be different ids"),
        ({"envs": ["a/B-v0", "a-B-v0"]}, "must be different ids.* Received a-B-v0, a/B-v0"),
        ({"envs": []}, "at least one of `envs`"),
        ({"envs": [{"TMazePassive30-v0": {"score": {"lower": 1}}}]}, "Unknown key of `score`.*'lower'"),
        (
            {"score": {"measure": "style"}},
            "`measure` of `score` of .*'return' or 'success'. Received 'style'",
        ),
        ({"score": {"low": 2.0}}, "`high` must be above `low`"),
        (
            {"score": {"measure": "success"}, "envs": ["CartPole-v1"]},
            "`measure` must be return where CartPole-v1 is evaluated, for it reports no success",
        ),
        (
            {
                "score": {"measure": "success"},
                "envs": [{"TMazePassive30-v0": {"evaluate": ["TMazePassive30-v0", "CartPole-v1"]}}],
            },
            "where CartPole-v1 is evaluated",
        ),
        ({"agents": {"a/b": {}}}, "`agents.a/b.* of made.yml: .* Received 'a/b'"),
        ({"agents": {"a": {"algo": 1}}}, "`algo` of agent 'a' must be"),
    ],
)
def test_a_wrong_matrix_is_refused_by_the_name_of_its_key(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_matrix(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"n_step": 8}}, "Unknown key in the settings of TMazePassive30-v0: 'n_step'. Did you mean 'n_steps'"),
        ({"settings": {"n_steps": "8"}}, "`n_steps` of Agent 'elmur' in TMazePassive30-v0 must be int. Received '8'"),
        (
            {"settings": {"clip_range": "con_1"}},
            "`clip_range` of Agent 'elmur' in TMazePassive30-v0 must be float, or 'lin_<number>'. Received 'con_1'",
        ),
        (
            {"settings": {"callback": "collections.OrderedDict"}},
            "`callback` must be the dotted path of a subclass of BaseCallback",
        ),
        ({"settings": {"n_timesteps": 0}}, "`n_timesteps` must be an integer of at least 1"),
        ({"settings": {"frame_stack": 0}}, "`frame_stack` must be an integer of at least 1"),
        ({"settings": {"learning_rate": -1.0}}, r"`learning_rate` must be a number in \[0, inf\)"),
        ({"settings": {"learning_rate": "lin_-1"}}, r"`learning_rate` must be a number in \[0, inf\)"),
        ({"settings": {"gamma": 2.0}}, r"`gamma` must be a number in \[0, 1\]"),
        ({"settings": {"clip_range": -1.0}}, "`clip_range` must be a number above 0"),
        ({"settings": {"trust_region": 0.0}}, "`trust_region` must be a number above 0"),
        ({"settings": {"env_kwargs": {"colour": 1}}}, "Unknown argument of TMazePassive30-v0 in `env_kwargs`: 'colour'"),
        ({"settings": {"normalize": {"clip_obs": -1}}}, r"`clip_obs` must be a number in \[0, inf\)"),
        ({"settings": {"normalize": {"foo": 1}}}, "Unknown argument of VecNormalize in `normalize`: 'foo'"),
        ({"envs": [{"TMazePassive30-v0": {"colour": 1}}]}, "Unknown key .*: 'colour'"),
        ({"agents": {"a": {"algo": "dqn"}}}, "`algo` of agent 'a' must be one of ppo_elmur, ppo_lstm, ppo, oracle, random"),
        ({"agents": {"a": {"colour": 1}}}, "Unknown key of agent 'a': 'colour'"),
        ({"agents": {"a": {"algo": "ppo", "bptt_segments": 1}}}, "Unknown key .*: 'bptt_segments'"),
        ({"agents": {"a": {"algo": "oracle", "gamma": 1.0}}}, "Unknown key of agent 'a': 'gamma'. Known are none"),
        ({"agents": {"a": {"policy": "GuessPolicy"}}}, "`policy` must be one of MlpLstmPolicy, .*ElmurPolicy"),
        ({"agents": {"a": {"policy": "absent.Policy"}}}, "or the dotted path of a policy. Received 'absent.Policy'"),
        ({"agents": {"a": {"policy_kwargs": {"cores": "gru"}}}}, "Unknown key in `policy_kwargs` of agent 'a': 'cores'"),
        (
            {"settings": {"policy_kwargs": {"d_modle": 8}}},
            "Unknown key in `policy_kwargs` of TMazePassive30-v0: 'd_modle'. Did you mean 'd_model'",
        ),
        (
            {"envs": [{"TMazePassive30-v0": {"policy_kwargs": {"lstm_hiden_size": 8}}}], "agents": {"a": {"algo": "ppo"}}},
            "`policy_kwargs` of TMazePassive30-v0: 'lstm_hiden_size'. Did you mean 'lstm_hidden_size'",
        ),
        (
            {"settings": {"policy_kwargs": 3}},
            r"`policy_kwargs` of TMazePassive30-v0 must be dict\[str, Any\] \| None. Received 3",
        ),
        ({"agents": {"a": {"policy_kwargs": {"d_model": 1.5}}}}, "`d_model` of Agent 'a' in .* must be int. Received 1.5"),
        ({"agents": {"a": {"policy_kwargs": {"core": "rnn"}}}}, "`core` must be"),
        (
            {
                "kind": "bc",
                "agents": {"a": {}},
                "envs": [{"TMazePassive30-v0": {"demonstrations": {"episodes": 1, "env_kwargs": {"colour": 1}}}}],
            },
            "Unknown argument of TMazePassive30-v0 in `env_kwargs`: 'colour'",
        ),
    ],
)
def test_wrong_hyper_parameters_are_refused_before_anything_runs(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        make_cells(read_matrix(write(tmp_path, **changes)), tmp_path)


def test_settings_of_an_agent_count_more_than_those_of_the_environment_the_matrix_and_the_file(tmp_path: Path) -> None:
    def resolved(**changes: Any) -> dict[str, Any]:
        matrix = read_matrix(write(tmp_path, **changes))
        return resolve(matrix, matrix.envs[0], matrix.agents[0])

    from_file = resolved()
    assert from_file["policy_kwargs"]["segment_length"] == 5
    common: dict[str, Any] = {"settings": {"n_steps": 1, "n_epochs": 1, "gamma": 0.1, "policy_kwargs": {"d_model": 8}}}
    env = [{"TMazePassive30-v0": {"n_epochs": 2, "gamma": 0.2}}]
    found = resolved(**common, envs=env, agents={"a": {"gamma": 0.3, "policy_kwargs": {"memory_size": 3}}})
    assert (found["n_steps"], found["n_epochs"], found["gamma"]) == (1, 2, 0.3)
    changed = {"d_model": 8, "memory_size": 3}
    assert found["policy_kwargs"] == from_file["policy_kwargs"] | changed
    assert found["batch_size"] == from_file["batch_size"]


def test_an_agent_without_memory_takes_the_common_settings_that_it_knows(tmp_path: Path) -> None:
    matrix = read_matrix(
        write(tmp_path, agents={"a": {"algo": "ppo", "frame_stack": 3}}, settings={"n_steps": 7, "bptt_segments": 2})
    )
    found = resolve(matrix, matrix.envs[0], matrix.agents[0])
    assert (found["policy"], found["policy_kwargs"], found["n_steps"], found["frame_stack"]) == ("MlpPolicy", {}, 7, 3)
    assert "bptt_segments" not in found


def test_common_policy_arguments_may_be_those_of_any_algorithm_whoever_is_selected(tmp_path: Path) -> None:
    common = {"policy_kwargs": {"lstm_hidden_size": 4, "d_model": 8}}
    agents = {"elmur": {}, "lstm": {"algo": "ppo_lstm"}, "none": {"algo": "ppo"}}
    matrix = read_matrix(write(tmp_path, settings=common, agents=agents))
    taken = {}
    for name in agents:
        (cell, _) = make_cells(select(matrix, agents=[name]), tmp_path)
        taken[name] = {key: value for key, value in cell.settings["policy_kwargs"].items() if key in common["policy_kwargs"]}
    assert taken == {"elmur": {"d_model": 8}, "lstm": {"lstm_hidden_size": 4}, "none": {}}


@pytest.mark.parametrize("path", MATRICES, ids=lambda path: path.stem)
def test_every_shipped_matrix_can_be_run(path: Path, tmp_path: Path) -> None:
    try:
        found = make_cells(read_matrix(path), tmp_path)
    except (ValueError, ImportError) as error:
        if any(reason in str(error) for reason in ("must be registered ids", "has no settings for", "No module named")):
            pytest.skip(str(error)[:300])
        raise
    assert len({cell.path for cell in found}) == len(found)


def test_memories_that_are_compared_have_as_many_parameters_within_a_tenth(tmp_path: Path) -> None:
    (path,) = (path for path in MATRICES if path.stem == "memories")
    counts: dict[str, list[int]] = {}
    for cell in make_cells(select(read_matrix(path), seeds=[0]), tmp_path):
        env = make_monitored(cell.env.env_id, 1)
        model = RecurrentPPO("ElmurPolicy", env, policy_kwargs=cell.settings["policy_kwargs"])
        counts.setdefault(cell.env.env_id, []).append(sum(weight.numel() for weight in model.policy.parameters()))
    for elmur, *others in counts.values():
        assert others == pytest.approx([elmur] * len(others), rel=0.1)


def test_strings_of_zoo_configs_mean_what_rl_zoo3_makes_of_them(tmp_path: Path) -> None:
    own = {"algo": "ppo", "policy_kwargs": "dict(net_arch=[3], activation_fn=nn.ReLU)", "normalize": "dict(norm_reward=False)"}
    matrix = read_matrix(write(tmp_path, agents={"a": own}, settings={"policy_kwargs": {"ortho_init": False}}))
    found = resolve(matrix, matrix.envs[0], matrix.agents[0])
    assert found["policy_kwargs"] == {"net_arch": [3], "activation_fn": nn.ReLU, "ortho_init": False}
    assert found["normalize"] == {"norm_reward": False}
    (cell, _) = make_cells(matrix, tmp_path)
    assert "ReLU" in cell.plan()["settings"]["policy_kwargs"]["activation_fn"]
    wrong = read_matrix(write(tmp_path, agents={"a": own | {"policy_kwargs": "dict(activation_fn=3)"}}))
    with pytest.raises(ValueError, match=r"`activation_fn` of Agent 'a' .* must be type\[torch.nn"):
        make_cells(wrong, tmp_path)


def test_a_selection_keeps_what_it_names_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    matrix = read_matrix(write(tmp_path, envs=["TMazePassive30-v0", "TMazePassive10-v0"], agents={"a": {}, "b": {}}))
    part = select(matrix, ["TMazePassive10-v0"], ["b"], [1])
    assert [env.env_id for env in part.envs] == ["TMazePassive10-v0"]
    assert [agent.name for agent in part.agents] == ["b"]
    assert part.seeds == (1,)
    for wrong in ({"envs": ["x"]}, {"agents": ["x"]}, {"seeds": [2]}):
        with pytest.raises(ValueError, match=r"Unknown (environment|agent|seed) in `--"):
            select(matrix, **wrong)  # type: ignore[arg-type]


def test_agents_that_do_not_learn_have_one_seed(tmp_path: Path) -> None:
    matrix = read_matrix(write(tmp_path, agents={"elmur": {}, "oracle": {"algo": "oracle"}}, seeds=[3, 4]))
    found = [(cell.agent.name, cell.seed) for cell in make_cells(matrix, tmp_path)]
    assert found == [("elmur", 3), ("oracle", 0), ("elmur", 4)]


# Cells


def test_a_finished_cell_is_not_computed_again(tmp_path: Path) -> None:
    cell = scripted_cell(tmp_path)
    assert run_cells([cell], tmp_path, 1) == []
    before = cell.path.stat().st_mtime_ns
    assert run_cells([cell], tmp_path, 1) == []
    assert cell.path.stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [cell.path.name]


def test_a_result_of_other_settings_is_refused(tmp_path: Path) -> None:
    cell = scripted_cell(tmp_path)
    report = compute(cell, None)
    report["plan"]["n_eval_episodes"] = 5
    cell.write(report)
    with pytest.raises(ValueError, match=r"was computed with another `n_eval_episodes`: 5. .* now say 4"):
        cell.read()


def test_a_result_of_other_defaults_is_refused_and_one_that_does_not_say_them_is_told(tmp_path: Path) -> None:
    matrix = read_matrix(write(tmp_path, seeds=[0]))
    (cell,) = make_cells(matrix, tmp_path)
    assert {"learning_rate", "trust_region", "blend"} <= cell.left_out().keys()
    assert not {"n_envs", "batch_size", "segment_length", "memory_size"} & cell.left_out().keys()
    made_up_report(cell, 1.0)
    assert "1 of the results do not say what the defaults of the classes were." in write_report(matrix, tmp_path, tmp_path)
    report = json.loads(cell.path.read_text()) | {"left to the classes": cell.left_out()}
    cell.write(report)
    assert "do not say" not in write_report(matrix, tmp_path, tmp_path)
    report["left to the classes"]["trust_region"] = 0.7
    cell.write(report)
    with pytest.raises(ValueError, match=r"when the default of `trust_region` was 0.7. It is 0.1 now"):
        cell.read()


@pytest.mark.parametrize(("key", "value"), [("return", float("nan")), ("return", float("inf")), ("curve", [{"steps": 1.0}])])
def test_a_result_without_numbers_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    cell = scripted_cell(tmp_path)
    report = compute(cell, None)
    where = report if key == "curve" else report["evaluations"][cell.env.evaluate[0]]
    where[key] = value
    cell.write(report)
    with pytest.raises(ValueError, match=key):
        cell.read()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_result_is_refused_or_complete(tmp_path: Path, data: st.DataObject) -> None:
    cell = scripted_cell(tmp_path)
    made_up_report(cell, 1.0)
    text = bytearray(cell.path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(text) - 1))
        text[position : position + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=3))
    cell.path.write_bytes(bytes(text))
    with suppress(ValueError):
        report = cell.read()
        assert report is not None
        assert all(isinstance(report["evaluations"][env_id]["return"], int | float) for env_id in cell.env.evaluate)


def fail(message: str) -> None:
    """A job that prints, and fails."""
    print("begins")
    raise RuntimeError(message)


def die_once(folder: Path) -> str:
    """A job whose process is killed the first time."""
    try:
        (folder / "killed").mkdir()
    except FileExistsError:
        return "done"
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_failure_is_told_with_its_output_and_does_not_stop_the_others() -> None:
    outcomes = dict(run({"bad": (fail, "no luck"), "good": (len, "ab")}, 1))
    assert outcomes["good"] == 2
    assert outcomes["bad"].text.startswith("begins")
    assert "RuntimeError: no luck" in outcomes["bad"].text


def test_a_cluster_computes_what_processes_would_where_there_is_what_it_needs() -> None:
    dask: Any = pytest.importorskip("distributed", reason='distributed is missing: pip install "sb3-elmur[cluster]"')
    options = {"processes": False, "dashboard_address": None, "resources": {"GPU": 1}}
    with dask.LocalCluster(n_workers=1, threads_per_worker=1, **options) as workers:
        cluster = Cluster(workers.scheduler_address, {"GPU": 1})
        outcomes = dict(run({"bad": (fail, "no luck"), "good": (len, "ab")}, 1, cluster=cluster))
    assert outcomes["good"] == 2
    assert "RuntimeError: no luck" in outcomes["bad"].text


@pytest.mark.slow
def test_what_a_killed_process_did_is_done_again(tmp_path: Path) -> None:
    outcomes = dict(run({1: (die_once, tmp_path), 2: (die_once, tmp_path)}, 2))
    assert outcomes == {1: "done", 2: "done"}


def test_demonstrations_are_recorded_once_for_all_cells(tmp_path: Path) -> None:
    matrix = read_matrix(write(tmp_path, kind="bc", demonstrations={"episodes": 3}, seeds=[0, 1]))
    one, other = (data_folder(cell, tmp_path) for cell in make_cells(matrix, tmp_path))
    assert one == other
    more = read_matrix(write(tmp_path, kind="bc", demonstrations={"episodes": 2}))
    assert data_folder(make_cells(more, tmp_path)[0], tmp_path) != one


def test_demonstrations_of_another_version_of_the_expert_are_recorded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "made_maze"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "maze.py").write_text("from sb3_elmur.envs import TMazeEnv\ndef make(**kwargs): return TMazeEnv(**kwargs)\n")
    (package / "expert.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(gymnasium.registry, "Made-v0", EnvSpec("Made-v0", "made_maze.maze:make"))
    env = Environment("Made-v0", "", ("Made-v0",), False, Score(), Demonstrations(episodes=1), None, {})
    cell = Cell(env, Agent("a", None, {}), 0, ALGORITHMS["bc"]["bc_elmur"], {}, 1, tmp_path / "cell.json")
    first = data_folder(cell, tmp_path)
    assert data_folder(cell, tmp_path) == first
    (package / "expert.py").write_text("BETTER = True")
    second = data_folder(cell, tmp_path)
    assert second != first
    monkeypatch.setattr(cells, "version", lambda name: "1000")
    assert data_folder(cell, tmp_path) not in (first, second)


TINY: dict[str, dict[str, Any]] = {
    "ppo_elmur": {"policy": "sb3_elmur.ElmurPolicy", "policy_kwargs": SMALL, "n_epochs": 1, "bptt_segments": 1},
    "ppo_lstm": {"policy": "MlpLstmPolicy", "policy_kwargs": {"lstm_hidden_size": 4}, "n_epochs": 1},
    "ppo": {"policy": "MlpPolicy", "policy_kwargs": {"net_arch": [4]}, "n_epochs": 1, "frame_stack": 2, "normalize": True},
}


@pytest.mark.parametrize("algo", TINY)
def test_every_online_algorithm_is_trained_and_evaluated(algo: str, tmp_path: Path) -> None:
    training = {"n_envs": 4, "n_steps": 32, "batch_size": 32, "n_timesteps": 300, "learning_rate": "lin_1e-3"}
    settings = TINY[algo] | training | {"env_kwargs": {"corridor_length": [1, 4]}}
    env = Environment("TMazePassive10-v0", "", ("TMazePassive10-v0", "TMazePassive30-v0"), False, Score(), None, None, {})
    cell = Cell(env, Agent("a", algo, {}), 0, ALGORITHMS["online"][algo], settings, 3, tmp_path / "cell.json")
    cell.algorithm.check(settings)
    report = compute(cell, None)
    assert report["parameters"] > 0
    assert report["effort"] == {"steps": 384}
    assert report["curve"][-1]["steps"] == 384
    assert set(report["curve"][-1]) == {"steps", "return", "success"}
    for evaluation in report["evaluations"].values():
        assert len(evaluation["returns"]) == 3
        assert evaluation["success"] == evaluation["return"]  # a sparse reward


class Counting(BaseCallback):
    """Counts steps."""

    n_steps = 0

    def __init__(self, by: int) -> None:
        super().__init__()
        self.by = by

    def _on_step(self) -> bool:
        Counting.n_steps += self.by
        return True


def test_callbacks_are_called_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "made_callbacks", SimpleNamespace(Counting=Counting))  # type: ignore[arg-type]
    training = {
        "n_envs": 2,
        "n_steps": 8,
        "batch_size": 16,
        "n_timesteps": 16,
        "callback": [{"made_callbacks.Counting": {"by": 3}}],
    }
    env = Environment("TMazePassive10-v0", "", ("TMazePassive10-v0",), False, Score(), None, None, {})
    cell = Cell(env, Agent("a", None, {}), 0, ALGORITHMS["online"]["ppo"], TINY["ppo"] | training, 1, tmp_path / "cell.json")
    compute(cell, None)
    assert Counting.n_steps == 24


@pytest.mark.parametrize("algo", TINY)
def test_all_settings_of_the_zoo_can_be_compared(algo: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    known = [env_id for env_id in read_file("ppo_elmur.yml") if env_id in gymnasium.registry]
    assert len(known) > 50
    measure = {"measure": "return", "low": 0.0, "high": 1.0}
    make_cells(read_matrix(write(tmp_path, envs=known, agents={"a": {"algo": algo}}, score=measure, seeds=[0])), tmp_path)
    others = {"ppo_elmur.yml", "ppo_lstm.yml"} - {ALGORITHMS["online"][algo].settings_file}
    assert not any(other in capsys.readouterr().out for other in others)


def test_agents_that_see_images_are_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gymnasium.registry, "Seen-v0", EnvSpec("Seen-v0", lambda **_: RandomEnv(IMAGE, spaces.Discrete(3))))
    env = Environment("Seen-v0", "", ("Seen-v0",), False, Score(), None, None, {})
    training = {"n_envs": 2, "n_steps": 8, "batch_size": 16, "n_timesteps": 16}
    settings = TINY["ppo_elmur"] | training | {"policy": "ElmurCnnPolicy"}
    cell = Cell(env, Agent("a", None, {}), 0, ALGORITHMS["online"]["ppo_elmur"], settings, 3, tmp_path / "cell.json")
    assert len(compute(cell, None)["evaluations"]["Seen-v0"]["returns"]) == 3


def test_an_evaluation_in_other_spaces_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = Environment("CartPole-v1", "", ("TMazePassive10-v0",), False, Score(), None, None, {})
    cell = replace(scripted_cell(tmp_path), env=env)
    monkeypatch.setattr(type(cell.algorithm), "train", lambda *_: pytest.fail("was trained"))
    with pytest.raises(ValueError, match=r"`evaluate` must name environments with the spaces of CartPole-v1. Received 'TMaze"):
        compute(cell, None)
    env = Environment("TMazePassive10-v0", "", ("TMazePassive10-v0",), False, Score(), None, None, {})
    cell = replace(cell, env=env, settings={"env_kwargs": {"n_cues": 2}})
    monkeypatch.setattr("sb3_elmur.comparison.cells.make_monitored", lambda _, n_envs, env_kwargs: Spaces(env_kwargs))
    with pytest.raises(ValueError, match=r"spaces of TMazePassive10-v0 with `env_kwargs` \{'n_cues': 2\}. Received 'TMaze"):
        compute(cell, None)


class Spaces:
    """An environment whose observations depend on its arguments."""

    action_space = spaces.Discrete(2)

    def __init__(self, env_kwargs: dict[str, int] | None) -> None:
        self.observation_space = spaces.Discrete((env_kwargs or {}).get("n_cues", 1))

    def close(self) -> None:
        pass


def test_a_cell_without_a_result_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = scripted_cell(tmp_path)
    without = Trained(lambda *_: [{"return": math.nan, "length": 1}])
    monkeypatch.setattr(type(cell.algorithm), "train", lambda *_: without)
    assert run_cells([cell], tmp_path, 1) == [cell]
    assert not cell.path.exists()


def test_nothing_is_computed_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").symlink_to(tmp_path / "unmounted" / "drive")
    cell = scripted_cell(tmp_path / "results" / "made")
    monkeypatch.setattr(type(cell.algorithm), "train", lambda *_: pytest.fail("was computed"))
    with pytest.raises(OSError, match="results"):
        run_cells([cell], tmp_path, 1)


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, None),
        ({"normalize": False, "gamma": 0.9}, None),
        ({"normalize": None}, None),
        ({"normalize": True}, {}),
        ({"normalize": {}}, {}),
        ({"normalize": True, "normalize_kwargs": {}}, {}),
        ({"normalize": True, "normalize_kwargs": {"clip_obs": 5.0}}, {"clip_obs": 5.0}),
        ({"normalize": {"gamma": 0.5}}, {"gamma": 0.5}),
        ({"normalize": {"gamma": 0.5}, "gamma": 0.9}, {"gamma": 0.9}),
    ],
)
def test_settings_normalise_as_those_of_rl_zoo3_and_of_cloning(settings: dict, arguments: dict | None) -> None:
    assert Wrappers.of(settings).normalize == arguments


class Choosy(RandomEnv):
    """Ends for good at an action that is not valid."""

    def action_masks(self) -> np.ndarray:
        return np.array([False, True, False])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        if action != 1:
            raise ValueError(f"{action} is not valid")
        return *super().step(action)[:4], {"is_success": True}


def test_whether_success_is_reported_is_found_out_by_valid_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gymnasium.registry, "Choosy-v0", EnvSpec("Choosy-v0", lambda **_: Choosy(VECTOR, spaces.Discrete(3))))
    assert may_report_success("Choosy-v0")


@pytest.mark.parametrize(("expert", "success"), [("oracle", 1.0), ("random", 0.0)])
def test_the_oracle_succeeds_where_random_actions_do_not(expert: str, success: float, tmp_path: Path) -> None:
    cell = scripted_cell(tmp_path, expert)
    cell.write(compute(cell, None))
    report = cell.read()
    assert report is not None
    assert report["evaluations"]["TMazePassive30-v0"]["success"] == success
    assert report["parameters"] == 0


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("budget", [None, Budget(steps=60), Budget(cpu_seconds=0.2)])
def test_cloning_trains_within_its_budget_and_is_evaluated(budget: Budget | None, normalize: bool, tmp_path: Path) -> None:
    demonstrations = Demonstrations(episodes=8, env_kwargs={"corridor_length": [1, 4]})
    settings = {"policy": "ElmurPolicy", "policy_kwargs": SMALL, "n_epochs": 2, "batch_size": 4, "normalize": normalize}
    env = Environment("TMazePassive10-v0", "", ("TMazePassive10-v0",), True, Score(), demonstrations, budget, {})
    algorithm = ALGORITHMS["bc"]["bc_elmur"]
    cell = Cell(env, Agent("a", None, {}), 0, algorithm, settings, 3, tmp_path / "cell.json")
    folder = data_folder(cell, tmp_path)
    assert folder is not None
    record_data(env.env_id, demonstrations, folder)
    report = compute(cell, folder)
    for way in ("evaluations", "sampled"):
        assert len(report[way]["TMazePassive10-v0"]["returns"]) == 3
    if budget is None:
        assert report["effort"]["epochs"] == 2
    elif budget.steps is not None:
        per_epoch = report["effort"]["steps"] / report["effort"]["epochs"]
        assert abs(report["effort"]["steps"] - budget.steps) <= per_epoch / 2
    assert report["effort"]["updates"] == 2 * report["effort"]["epochs"]


@given(st.integers(1, 10_000), st.lists(st.integers(1, 99), min_size=1, max_size=50), st.data())
def test_a_budget_of_steps_is_met_to_the_nearest_epoch(steps: int, lengths: list[int], data: st.DataObject) -> None:
    trained = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, unique=True))  # the others are held out
    trainer = SimpleNamespace(episodes=SimpleNamespace(lengths=np.array(lengths)), trained=np.array(trained))
    n_epochs = epochs_within(Budget(steps=steps), lambda _: trainer)  # type: ignore[arg-type, return-value]
    per_epoch = sum(lengths[i] for i in trained)
    assert n_epochs >= 1
    assert n_epochs == 1 or abs(n_epochs * per_epoch - steps) <= per_epoch / 2


class Fitted(FlattenExtractor):
    """Remembers how many episodes it was fitted to."""

    n_episodes = 0

    def fit(self, episodes: Any) -> None:
        Fitted.n_episodes = len(episodes)


def test_cloning_fits_extractors_as_the_command_does(tmp_path: Path) -> None:
    demonstrations = Demonstrations(episodes=3)
    env = Environment("TMazePassive10-v0", "", ("TMazePassive10-v0",), False, Score(), demonstrations, None, {})
    settings = {"policy": "ElmurPolicy", "policy_kwargs": SMALL | {"features_extractor_class": Fitted}, "n_epochs": 1}
    cell = Cell(env, Agent("a", None, {}), 0, ALGORITHMS["bc"]["bc_elmur"], settings, 1, tmp_path / "cell.json")
    record_data(env.env_id, demonstrations, tmp_path / "data")
    compute(cell, tmp_path / "data")
    assert Fitted.n_episodes == 3


# Statistics and report


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "N_RESAMPLES", 50)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_the_probability_of_improvement_is_that_of_rliable(seed: int, n_one: int, n_other: int, n_envs: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 4, (n_one, n_envs)) / 4, rng.integers(0, 4, (n_other, n_envs)) / 4  # with ties
    expected = metrics.probability_of_improvement(one, other)
    assert statistics.probability_of_improvement(one, other) == pytest.approx(expected)


@pytest.mark.usefixtures("few_resamples")
def test_intervals_hold_their_estimate_and_are_the_same_every_time() -> None:
    rng = np.random.default_rng(0)
    scores = {"good": 0.8 + 0.05 * rng.normal(size=(5, 4)), "bad": 0.3 + 0.05 * rng.normal(size=(5, 4))}
    middle = statistics.interquartile_means(scores)
    for name, interval in middle.items():
        assert interval.low <= interval.value <= interval.high
        assert interval.high - interval.low < 0.2
        assert interval.value == pytest.approx(float(scores[name].mean()), abs=0.05)
    assert statistics.interquartile_means(scores) == middle
    assert statistics.improvements(scores, "good") == {"bad": (1.0, 1.0, 1.0)}


def made_up_report(cell: Cell, value: float) -> None:
    """A result as :func:`compute` writes it."""
    evaluations = {env_id: {"return": value, "success": value, "returns": [value] * 2} for env_id in cell.env.evaluate}
    curve = [{"steps": steps, "return": value * steps / 100, "success": value} for steps in (50, 100)]
    machine = {"cpu": "an abacus"}
    report = {
        "plan": cell.plan(), "parameters": 10, "effort": {"steps": 100}, "evaluations": evaluations,
        "curve": curve if cell.settings else [], "training CPU seconds": 1.0, "evaluation CPU seconds": 0.1,
        "date": "2026-01-01", "machine": machine, "versions": {"torch": "2"},
    }  # fmt: skip
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    cell.path.write_text(json.dumps(report))


def made_up_results(folder: Path, name: str = "made.yml", **changes: Any) -> Matrix:
    """A matrix of which all but the last cell has a result."""
    beyond = {"evaluate": ["TMazePassive30-v0", "TMazePassive100-v0"]}
    agents = {"elmur": {}, "gru": {"policy_kwargs": {"core": "gru"}}, "oracle": {"algo": "oracle"}}
    envs = {"short": [{"TMazePassive30-v0": beyond}], "long": ["TMazeEndless3x30-v0"]}
    path = write(folder, agents=agents, envs=envs, **{"notes": "Not like for like."} | changes).rename(folder / name)
    matrix = read_matrix(path)
    values = {"elmur": 0.75, "gru": 0.5, "oracle": 1.0}
    for cell in make_cells(matrix, folder)[:-1]:
        made_up_report(cell, values[cell.agent.name] + 0.1 * cell.seed)
    return matrix


@pytest.mark.usefixtures("few_resamples")
def test_the_page_tells_means_spreads_sums_and_what_is_missing(tmp_path: Path) -> None:
    matrix = made_up_results(tmp_path)
    page = write_report(matrix, tmp_path, tmp_path / "docs")
    assert page == (tmp_path / "docs" / "made.md").read_text()
    assert "9 of 10 results are there" in page
    assert "Not like for like." in page
    assert "| TMazePassive30-v0 | **0.80 ± 0.07** | 0.55 ± 0.07 | 1.00 |" in page
    assert "| TMazeEndless3x30-v0 | **0.80 ± 0.07** | 0.50 (1) | 1.00 |" in page
    assert "| **sum of 2** | **1.60** | **1.05** | **2.00** |" in page
    assert "| **long** |" in page
    assert "| TMazePassive30-v0 | TMazePassive100-v0 | 0.80 ± 0.07 | 0.55 ± 0.07 | 1.00 |" in page
    assert "Scores of 2 seeds in 1 environment, return from 0 to 1 mapped to 0 to 1: interquartile mean" in page
    assert "an abacus" in page
    for name in ("aggregate", "bars", "curves"):
        assert f"(made_{name}.png)" in page
        assert (tmp_path / "docs" / f"made_{name}.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.usefixtures("few_resamples")
def test_there_is_no_sum_of_different_scales(tmp_path: Path) -> None:
    matrix = made_up_results(tmp_path, score={"measure": "success"})
    assert "sum of" not in write_report(matrix, tmp_path, tmp_path / "docs")


@pytest.mark.usefixtures("ascii_machine")
def test_a_page_does_not_depend_on_the_machines_encoding(tmp_path: Path) -> None:
    write_report(read_matrix(write(tmp_path, title="λ")), tmp_path, tmp_path)
    assert (tmp_path / "made.md").read_text(encoding="utf-8").startswith("# λ")


@pytest.mark.usefixtures("few_resamples")
def test_a_matrix_may_have_a_space_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: path.touch())
    page = write_report(made_up_results(tmp_path, "my matrix.yml"), tmp_path, tmp_path)
    assert "](my%20matrix_bars.png)" in page
    assert f"compare '{tmp_path}/my matrix.yml' --report --results" in page
    assert (tmp_path / "my matrix_bars.png").exists()


def test_the_legend_has_agents_that_lack_a_result_in_the_first_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = made_up_results(tmp_path)
    for path in (tmp_path / "made").glob("TMazePassive30-v0__gru__*"):
        path.unlink()
    drawn: list[Figure] = []

    def keep(figure: Figure, path: Path, **_: Any) -> None:
        drawn.append(figure)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    figures.draw_bars(read_results(matrix, tmp_path), tmp_path / "bars.png")
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["elmur", "gru", "oracle"]


def test_a_page_without_results_says_so(tmp_path: Path) -> None:
    page = write_report(read_matrix(write(tmp_path)), tmp_path, tmp_path / "docs")
    assert "0 of 2 results are there" in page
    assert "sampled" not in page


# The command


def test_the_command_computes_what_is_selected_and_reports_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, agents={"oracle": {"algo": "oracle"}, "random": {"algo": "random"}})
    arguments = [str(path), "--results", str(tmp_path), "--pages", str(tmp_path / "docs"), "--data", str(tmp_path)]
    selection = ["--only-envs", "TMazePassive30-v0", "--only-agents", "oracle", "--seeds", "0"]
    command.main([*arguments, *selection, "--workers", "1"])
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["TMazePassive30-v0__oracle__0.json"]
    command.main([*arguments, "--report"])
    output = capsys.readouterr().out
    assert "| TMazePassive30-v0 | 1.00 |" in output
    assert f"`sb3-elmur compare {path} --report --results {tmp_path} --pages {tmp_path / 'docs'}`" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only-agents", "nobody"], "'nobody'. Known are elmur"),
        (["--workers", "0"], "`--workers` must be at least 1. Received 0"),
        (["--device", "nowhere"], "`--device` must be there. Received 'nowhere'"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_runs(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main([str(write(tmp_path)), "--results", str(tmp_path), *options])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.skipif(th.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main([str(write(tmp_path)), "--results", str(tmp_path), "--device", "cuda"])
    assert "`--device` must be there. Received 'cuda'" in capsys.readouterr().err


def test_an_interruption_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_cells", interrupt)
    with pytest.raises(SystemExit, match="goes on"):
        command.main([str(write(tmp_path)), "--results", str(tmp_path)])


OWN = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
gymnasium.register("OwnCompared-v0", CartPoleEnv, max_episode_steps=10)
"""


@pytest.mark.slow
def test_an_environment_of_ones_own_is_compared_in_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_compared.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    stacked = {"algo": "ppo", "frame_stack": 2, "n_envs": 2, "n_timesteps": 64, "n_steps": 32, "batch_size": 32}
    agents = {"stacked": stacked, "random": {"algo": "random"}}
    path = write(tmp_path, envs=["OwnCompared-v0"], packages=["own_compared"], agents=agents, seeds=[1])
    try:
        command.main([str(path), "--data", str(tmp_path)])
    finally:
        gymnasium.registry.pop("OwnCompared-v0", None)
        sys.modules.pop("own_compared", None)
    output = capsys.readouterr().out
    assert "OwnCompared-v0__stacked__1: done" in output
    assert "2 of 2 results are there" in output


def test_a_report_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main([str(write(tmp_path)), "--results", str(tmp_path / "elsewhere"), "--report"])
    assert "`--results` must be the folder in which made has results. Received" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


def test_a_report_evaluates_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"__import__('pathlib').Path({str(tmp_path / 'marker')!r}).touch()"
    path = write(tmp_path, settings={"policy_kwargs": code})
    with pytest.raises(SystemExit, match="2"):
        command.main([str(path), "--results", str(tmp_path), "--report"])
    assert not (tmp_path / "marker").exists()
    assert "must be a Python literal" in capsys.readouterr().err

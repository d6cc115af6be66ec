"""The inspector: it sees what the policy did, finds a fact that is in memory, and writes a page that needs nothing else."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import sb3_elmur
from helpers import DICT, VECTOR, make_model, make_policy, random_envs
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.inspection import figures, page
from sb3_elmur.inspection.command import find_label, main
from sb3_elmur.inspection.episodes import inspect_episodes, play
from sb3_elmur.inspection.events import find_events, summarise_slots, tell
from sb3_elmur.inspection.figures import make_panels, make_pictures, render
from sb3_elmur.inspection.probing import Label, make_label

LENGTH = 22


def make_tmaze(n_envs: int, **arguments: Any) -> tuple[sb3_elmur.ElmurPolicy, TMazeVecEnv]:
    """An untrained agent that keeps in gated memory what it has written first, and turns at once or late."""
    env = TMazeVecEnv(n_envs, length=LENGTH)
    th.manual_seed(0)
    policy = make_policy(env.observation_space, env.action_space, blend="gated", gate_bias=-100.0, **arguments)
    with th.no_grad():
        policy.action_net.bias.copy_(th.tensor([100.0, 0.0, 0.0, 0.0]))  # always right, until the deadline
    return policy, env


@pytest.mark.parametrize("deterministic", [True, False])
def test_playing_is_what_the_policy_does_and_repeats(deterministic: bool) -> None:
    env = random_envs(3)
    policy = make_policy(env.observation_space, env.action_space)
    first, second = (play(policy, env, 5, deterministic) for _ in range(2))
    assert np.array_equal(first.actions, second.actions)
    assert np.array_equal(first.observations, second.observations)
    obs, length = th.as_tensor(first.observations[0, : first.lengths[0]]), th.as_tensor(first.lengths[:1])
    with th.no_grad():
        latent, _ = policy.replay(obs, policy.initial_memories(1).pi, length)
        best = policy.action_net(latent).argmax(1).numpy()
    assert np.array_equal(first.actions[0, : first.lengths[0]], best) or not deterministic
    for row, length in zip(first.rewards, first.lengths, strict=True):
        assert not row[length:].any()


def test_the_memory_of_the_inspection_is_that_of_the_policy() -> None:
    env = random_envs(2, mean_length=20.0)
    policy = make_policy(env.observation_space, env.action_space, lru_blend=0.3)
    played = play(policy, env, 1)
    inspection = inspect_episodes(policy, played)
    n_steps = int(played.lengths[0])
    n_complete = n_steps // 4
    assert n_complete > 2
    state = None
    for time in range(n_complete * 4):
        _, state = policy.step(played.observations[:1, time], state, np.array([time == 0]), deterministic=True)
    assert state is not None
    th.testing.assert_close(th.as_tensor(inspection.slots[n_complete - 1]), state.memory.slots[0])
    assert inspection.written[:n_complete].tolist() == [s % 2 for s in range(n_complete)]
    assert inspection.replaced[:n_complete].tolist() == [s > 1 for s in range(n_complete)]
    assert np.allclose(inspection.blend[2:n_complete], 0.3)
    assert np.allclose(inspection.read.sum(2), 1, atol=1e-5)
    assert inspection.ages[0, :, 0].tolist() == [0, 0]
    assert inspection.ages[1, :, 0].tolist() == [4, 4]
    assert np.isnan(inspection.ages[0, :, 1]).all()


def test_the_cue_is_found_where_it_was_written_and_stays_there() -> None:
    policy, env = make_tmaze(60)
    played = play(policy, env, 0)
    label = make_label(*find_label("1", played))
    inspection = inspect_episodes(policy, played, label)
    events = find_events(inspection, label)
    assert {(event.step, event.kind, event.slot) for event in events if event.slot == 0} == {(3, "written", 0)}
    best = summarise_slots(inspection, label)[0]
    assert (best.slot, best.knows_since, best.last_changed) == (0, 3, 3)
    assert best.accuracy > 0.9
    assert best.decoded == f"{played.observations[0, 0, 1]:g}"
    told = tell(events, summarise_slots(inspection, label), label)
    assert "written after step 3" in told
    assert "lost from a slot 0 times" in told


def test_what_is_not_in_memory_is_not_found() -> None:
    policy, env = make_tmaze(60, memory_init_std=0.1)
    played = play(policy, env, 0)
    label = Label("a coin", ("0", "1"), th.randint(2, (60,), generator=th.Generator().manual_seed(0)))
    inspection = inspect_episodes(policy, played, label)
    assert not find_events(inspection, label)
    assert "No slot ever knows a coin" in tell([], summarise_slots(inspection, label), label)


def test_a_fact_that_is_overwritten_is_lost() -> None:
    env = TMazeVecEnv(60, length=LENGTH)
    th.manual_seed(0)
    policy = make_policy(env.observation_space, env.action_space, lru_blend=1.0, memory_size=1)
    with th.no_grad():
        policy.action_net.bias.copy_(th.tensor([100.0, 0.0, 0.0, 0.0]))
        for layer in policy.backbone.core.layers:  # nothing is read, and a new content knows nothing of the old one
            layer.read.out.weight.zero_()
            layer.blend.from_blank = True
    played = play(policy, env, 0)
    label = make_label(*find_label("1", played))
    kinds = {(event.step, event.kind) for event in find_events(inspect_episodes(policy, played, label), label)}
    assert kinds == {(3, "written"), (7, "lost")}


class Page(HTMLParser):
    """What a page refers to, and what its pictures say."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.alternatives: list[str | None] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.sources += [value for name, value in attrs if name in ("src", "srcset") and value]
        self.alternatives += [found.get("alt")] if tag == "img" else []
        self.ids |= {found["id"] or ""} if "id" in found else set()
        self.links += [found["href"] or ""] if "href" in found else []


def test_the_command_writes_a_page_that_needs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "render", lambda picture, theme: theme.encode())
    model = make_model(sb3_elmur.RecurrentPPO, TMazeVecEnv(2, length=LENGTH))
    model.save(tmp_path / "model.zip")
    arguments = [str(tmp_path / "model.zip"), "--env", "TMazePassive-v0", "--env-kwargs", f"length:{LENGTH}"]
    main([*arguments, "--label", "1", "--episodes", "11", "--stochastic"])
    assert "Report: " in capsys.readouterr().out
    folder = tmp_path / "model_inspection"
    text = (folder / "report.html").read_text()
    parsed = Page(text)
    assert len(parsed.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in parsed.sources)
    assert all(parsed.alternatives)
    assert parsed.links == ["data:,", "#content"]
    assert "content" in parsed.ids
    assert "http" not in text.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in text
    assert "<script" not in text
    assert sorted(path.name for path in folder.iterdir()) == ["bias.png", "episode.png", "report.html"]
    assert (folder / "bias.png").read_text() == "light"


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are not drawn, which takes seconds."""
    monkeypatch.setattr(page, "render", lambda picture, theme: b"")


@pytest.mark.usefixtures("_undrawn")
def test_an_episode_that_ends_before_anything_is_written_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(sb3_elmur.RecurrentPPO, TMazeVecEnv(2, length=3)).save(tmp_path / "model.zip")
    arguments = ["--env", "TMazePassive-v0", "--env-kwargs", "length:3", "--label", "1", "--episodes", "11"]
    main([str(tmp_path / "model.zip"), *arguments])
    assert "ends before anything is written" in capsys.readouterr().out


def test_dicts_and_images_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "DPI", 10)
    env = sb3_elmur.RecurrentPPO._wrap_env(random_envs(1, DICT, mean_length=9.0))
    policy = make_policy(env.observation_space, env.action_space, sb3_elmur.ElmurMultiInputPolicy)
    played = play(policy, env, 2)
    (picture, _) = make_pictures(played, inspect_episodes(policy, played), None)
    assert render(picture, "dark").startswith(b"\x89PNG")
    assert find_label("vector:1", played)[1].shape == (1,)


def test_each_part_of_dicts_has_colours_of_its_own() -> None:
    env = random_envs(1, spaces.Dict({"far": spaces.Box(1e3, 2e3, (2,)), "near": VECTOR}))
    policy = make_policy(env.observation_space, env.action_space, sb3_elmur.ElmurMultiInputPolicy)
    played = play(policy, env, 2)
    parts = {panel.title: panel for panel in make_panels(played, inspect_episodes(policy, played), None)}
    for key in ("far", "near"):
        panel = parts[f"observation {key}"]
        np.testing.assert_array_equal(panel.values, played.observations[key][0, : played.lengths[0]].T)
        assert panel.signed  # about its own largest value


@pytest.mark.usefixtures("_undrawn")
def test_fewer_episodes_do_without_a_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(sb3_elmur.RecurrentPPO, TMazeVecEnv(2, length=3)).save(tmp_path / "model.zip")
    arguments = [str(tmp_path / "model.zip"), "--env", "TMazePassive-v0", "--env-kwargs", "length:3", "--episodes", "10"]
    main(arguments)
    with pytest.raises(SystemExit):
        main([*arguments, "--label", "1"])
    assert "`episodes`" in capsys.readouterr().err


def test_labels_that_do_not_exist_are_refused() -> None:
    env = random_envs(2)
    played = play(make_policy(VECTOR, env.action_space), env, 0)
    with pytest.raises(ValueError, match=r"`label`.*\(0, 1, 2\).*'3'"):
        find_label("3", played)
    with pytest.raises(ValueError, match=r"`label`.*'info:nothing'"):
        find_label("info:nothing", played)
    named = played._replace(last_infos=[{"room": "kitchen"}, {"room": "hall"}])
    with pytest.raises(ValueError, match=r"`label`.*'info:room'.*'kitchen'"):
        find_label("info:room", named)


def test_a_model_without_memory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(sb3_elmur.RecurrentPPO, random_envs(1), policy_kwargs={"core": "gru"}).save(tmp_path / "gru.zip")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "gru.zip"), "--env", "TMazePassive-v0"])
    assert re.fullmatch(r"error: `policy`.*core='gru'.*\n", capsys.readouterr().err)

"""The transformer: exact cases, equality with the slow implementation, and the invariants of its three ways to run."""

import copy
import dataclasses
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import SlowElmur, elmur_arguments, random_params, to_state_dict
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.memory import EMPTY, Memory

GOLDEN = Path(os.environ.get("ELMUR_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
CASES = sorted(GOLDEN.glob("*.npz"))

BASE = dict(
    L=3, d_model=8, d_ff=6, n_layer=2, n_head=2, memory_size=2, lru_blend_alpha=0.4, pre_lnorm=False, norm_type="layer",
    use_moe=False, use_swiglu=True, max_seq_len=5, num_experts=3, n_shared_experts=1, top_k=3, shared_d_ff=5, routed_d_ff=4,
)  # fmt: skip
VARIANTS = {
    "post-norm": {},
    "pre-norm": {"pre_lnorm": True},
    "rms": {"norm_type": "rmsnorm"},
    "gelu": {"use_swiglu": False},
    "moe renormalised": {"use_moe": True},
    "moe softmax top-1": {"use_moe": True, "router_gate": "softmax", "top_k": 1, "n_shared_experts": 2},
    "moe without shared": {"use_moe": True, "router_gate": "softmax", "top_k": 2, "n_shared_experts": 0},
    "moe of many": {"use_moe": True, "router_gate": "softmax", "num_experts": 7, "top_k": 3},
    "one slot": {"memory_size": 1},
    "many slots": {"memory_size": 33},
    "one step a segment": {"L": 1},
    "replace": {"lru_blend_alpha": 1.0},
    "keep": {"lru_blend_alpha": 0.0},
    "learned blending": {"blend": "learned"},
    "gated": {"blend": "gated"},
    "gated, one slot, pre-norm": {"blend": "gated", "memory_size": 1, "pre_lnorm": True},
    "gated recurrent": {"blend": "gated_recurrent"},
    "gated recurrent, one slot, pre-norm": {"blend": "gated_recurrent", "memory_size": 1, "pre_lnorm": True},
    "one head": {"n_head": 1, "max_seq_len": 1},
}


def build(config: dict, seed: int = 0, **arguments) -> tuple[Elmur, dict]:
    """A stack in float64 with random golden-style parameters, and these parameters as leaves."""
    params = {name: p.requires_grad_() for name, p in random_params(config, seed).items()}
    elmur = Elmur(ElmurConfig(**elmur_arguments(config), memory_init_std=0.5, **arguments)).double()
    with th.no_grad():
        elmur.load_state_dict(to_state_dict(params, config), strict=False)
        elmur.initial_slots.normal_(std=0.5)
        elmur.sinusoids.copy_(exact_sinusoids(config))
    return elmur, params


def exact_sinusoids(config: dict) -> th.Tensor:
    slow = SlowElmur(config, {}, th.zeros(0, 0, 0))
    return th.stack([slow._sinusoid(d) for d in range(config["L"])])


def slow_run(config: dict, params: dict, initial_slots: th.Tensor, x: th.Tensor, starts: th.Tensor):
    """Outputs (B, T, D) and the last episode of every row."""
    outputs, last = [], []
    for row, begin in zip(x, starts, strict=True):
        episode = SlowElmur(config, params, initial_slots)
        ys = []
        for token, start in zip(row, begin, strict=True):
            if start:
                episode = SlowElmur(config, params, initial_slots)
            ys.append(episode.step(token))
        outputs.append(th.stack(ys))
        last.append(episode)
    return th.stack(outputs), last


def no_tokens(elmur: Elmur, batch: int) -> th.Tensor:
    return elmur.initial_slots.new_zeros(batch, elmur.segment_length - 1, elmur.config.d_model)


def unroll(elmur: Elmur, x: th.Tensor, starts: th.Tensor, detach: bool = False):
    memory = elmur.initial_memory(len(x))
    return elmur.unroll(x, memory, no_tokens(elmur, len(x)), starts, detach_memory=detach, need_state=True)


def step_through(elmur: Elmur, x: th.Tensor, starts: th.Tensor):
    state, ys = elmur.initial_state(len(x)), []
    for token, start in zip(x.unbind(1), starts.unbind(1), strict=True):
        y, state = elmur.step(token, state, start)
        ys.append(y)
    return th.stack(ys, 1), state


@pytest.mark.skipif(not CASES, reason=f"no golden cases in {GOLDEN} (set ELMUR_GOLDEN to their folder)")
@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
@pytest.mark.parametrize("how", ["segments", "steps", "unroll"])
def test_golden_cases_match(path: Path, how: str) -> None:
    case = np.load(path, allow_pickle=False)
    config = json.loads(str(case["config"]))
    params = {k.removeprefix("param/"): th.from_numpy(case[k]) for k in case.files if k.startswith("param/")}
    elmur = Elmur(ElmurConfig(**elmur_arguments(config))).eval()
    missing, unexpected = elmur.load_state_dict(to_state_dict(params, config), strict=False)
    assert missing == ["initial_slots"]
    assert not unexpected
    x = th.from_numpy(case["tokens"])
    slots = th.stack([th.from_numpy(case[f"memory_init/{n}"]) for n in range(config["n_layer"])], 1)
    memory = elmur.initial_memory(len(x))._replace(slots=slots)
    never = th.zeros(x.shape[:2], dtype=th.bool)
    state = elmur.open_segment(x[:, :0], memory)
    tokens = no_tokens(elmur, len(x))

    def close(ours: th.Tensor, key: str) -> None:
        golden = case[key]
        assert np.abs(ours.numpy() - golden).max() <= 2e-5 * np.abs(golden).max(), key

    with th.no_grad():
        for s, segment in enumerate(x.split(config["L"], dim=1)):
            if how == "segments":
                y, memory = elmur.segment(segment, memory, th.full((len(x),), segment.shape[1]))
            elif how == "steps":
                ys = []
                for token in segment.unbind(1):
                    y, state = elmur.step(token, state, never[:, 0])
                    ys.append(y)
                y, memory = th.stack(ys, 1), state.memory
            else:
                starts = never[:, : segment.shape[1]]
                y, memory, tokens = elmur.unroll(segment, memory, tokens, starts, detach_memory=True, need_state=True)
            close(y, f"hidden/{s}")
            for n in range(config["n_layer"]):
                if f"memory/{s}/{n}" in case.files:
                    close(memory.slots[:, n], f"memory/{s}/{n}")
                    assert (memory.anchors.numpy() == case[f"anchor/{s}/{n}"]).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("detach", [False, True])
def test_outputs_memory_and_gradients_equal_the_slow_implementation(variant: str, detach: bool) -> None:
    config = BASE | VARIANTS[variant] | {"detach": detach}
    elmur, params = build(config)
    batch, time = 2, 3 * config["L"] + 2
    x = th.randn(batch, time, config["d_model"], dtype=th.float64, requires_grad=True)
    starts = th.zeros(batch, time, dtype=th.bool)
    starts[:, 0] = True
    starts[1, time // 2] = True
    weight = th.randn(batch, time, config["d_model"], dtype=th.float64)

    slow, episodes = slow_run(config, params, elmur.initial_slots, x, starts)
    (slow * weight).sum().backward()
    slow_x_grad, x.grad = x.grad, None
    expected = to_state_dict({k: th.zeros_like(p) if p.grad is None else p.grad for k, p in params.items()}, config)

    elmur.eval()
    y, memory, _ = unroll(elmur, x, starts, detach)
    (y * weight).sum().backward()
    th.testing.assert_close(y, slow, atol=1e-10, rtol=0)
    th.testing.assert_close(x.grad, slow_x_grad, atol=1e-9, rtol=0)
    for name, p in elmur.named_parameters():
        grad = th.zeros_like(p) if p.grad is None else p.grad
        th.testing.assert_close(grad, expected[name], atol=1e-9, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    for row, episode in enumerate(episodes):
        th.testing.assert_close(memory.slots[row], th.stack([th.stack(s) for s in episode.slots]), atol=1e-10, rtol=0)
        assert memory.anchors[row].tolist() == episode.anchors
        assert memory.position[row] == episode.time

    if not detach:
        elmur.zero_grad()
        x.grad = None
        y, _ = step_through(elmur, x, starts)
        (y * weight).sum().backward()
        th.testing.assert_close(y, slow, atol=1e-10, rtol=0)
        th.testing.assert_close(x.grad, slow_x_grad, atol=1e-9, rtol=0)
        for name, p in elmur.named_parameters():
            grad = th.zeros_like(p) if p.grad is None else p.grad
            th.testing.assert_close(grad, expected[name], atol=1e-9, rtol=0)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("moe")])
def test_load_balancing_loss_reaches_the_gradient_of_any_loss(variant: str) -> None:
    config = BASE | VARIANTS[variant]
    elmur, params = build(config, aux_loss_coef=0.3)
    x = th.randn(2, 2 * config["L"] + 1, config["d_model"], dtype=th.float64)
    starts = th.zeros(x.shape[:2], dtype=th.bool)
    slow, episodes = slow_run(config, params, elmur.initial_slots, x, starts)
    pooled = SlowElmur(config, params, elmur.initial_slots)
    for episode in episodes:
        for name, stats in episode.router_stats.items():
            pooled.router_stats.setdefault(name, []).extend(stats)
    (slow.sum() + 0.3 * pooled.aux_loss()).backward()
    expected = to_state_dict({k: th.zeros_like(p) if p.grad is None else p.grad for k, p in params.items()}, config)

    elmur.train()
    y, _, _ = unroll(elmur, x, starts)
    th.testing.assert_close(y, slow, atol=1e-10, rtol=0)
    y.sum().backward()
    for name, p in elmur.named_parameters():
        th.testing.assert_close(p.grad, expected[name], atol=1e-9, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("variant", [*VARIANTS, "no slots"])
def test_chains_of_different_lengths_equal_their_segments_one_after_another(variant: str) -> None:
    elmur = build(BASE | VARIANTS.get(variant, {"memory_size": 0}))[0].eval()
    length = elmur.segment_length
    lengths = th.tensor([3 * length + 1, 3 * length, 2 * length, length, 1])
    x = th.randn(len(lengths), int(lengths[0]), 8).double().requires_grad_()
    before = elmur.segment(x[:, :length], elmur.initial_memory(len(x)), lengths.clamp(max=length))[1]

    expected, memory = [], before
    for begin in range(0, x.shape[1], length):
        present = (lengths - begin).clamp(0, length)
        y, memory = elmur.segment(x[:, begin : begin + length], memory, present)
        expected += [row[:n] for row, n in zip(y, present.tolist(), strict=True)]
    segment_major = [
        row[begin : min(begin + length, n)]
        for begin in range(0, x.shape[1], length)
        for row, n in zip(x, lengths.tolist(), strict=True)
        if begin < n
    ]
    replayed, after = elmur.replay(th.cat(segment_major), before, lengths, need_memory=True)
    weight = th.randn_like(replayed)
    th.testing.assert_close(replayed, th.cat(expected), atol=1e-10, rtol=0)
    wanted = [x, *elmur.parameters()]
    losses = [(y * weight).sum() for y in (replayed, th.cat(expected))]
    for grads in zip(*(th.autograd.grad(loss, wanted, allow_unused=True, retain_graph=True) for loss in losses), strict=True):
        one, other = (th.zeros(()) if grad is None else grad for grad in grads)
        th.testing.assert_close(one, other, atol=1e-9, rtol=0, check_dtype=False)
    last = -(-lengths // length) == -(-x.shape[1] // length)  # chains that reach the last segment
    for own, other in zip(after, memory.rows(last), strict=True):
        th.testing.assert_close(own, other, atol=1e-10, rtol=0)


def test_a_process_without_chains_takes_part_when_statistics_are_pooled() -> None:
    elmur = Elmur(ElmurConfig(d_model=8, n_heads=2, ffn="moe")).train()
    pooled = []

    def pool(totals: th.Tensor) -> th.Tensor:
        pooled.append(totals)
        return totals + 1.0

    y, _ = elmur.replay(th.zeros(0, 8), elmur.initial_memory(0), th.zeros(0, dtype=th.int64), pool=pool)
    assert y.shape == (0, 8)
    assert len(pooled) == 1
    assert elmur.aux_loss is not None


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_step_by_step_equals_sequence(data: st.DataObject) -> None:
    """Random configurations, batch sizes, phases and episode boundaries, forward and in any cut into chunks."""
    config = BASE | VARIANTS[data.draw(st.sampled_from(sorted(VARIANTS)))]
    config |= {"L": data.draw(st.integers(1, 5)), "memory_size": data.draw(st.integers(1, 3))}
    elmur, _ = build(config, seed=data.draw(st.integers(0, 99)))
    double = data.draw(st.booleans())
    elmur = elmur.eval() if double else elmur.eval().float()
    batch, time = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 18))
    rng = th.Generator().manual_seed(data.draw(st.integers(0, 999)))
    x = th.randn(batch, time, 8, generator=rng, dtype=th.float64).to(elmur.initial_slots.dtype)
    starts = th.rand(batch, time, generator=rng) < data.draw(st.sampled_from([0.0, 0.1, 0.5]))
    tolerance = {"atol": 1e-10, "rtol": 0.0} if double else {"atol": 2e-4, "rtol": 1e-5}

    stepped, state = step_through(elmur, x, starts)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, time - 1)), max_size=4)))
    memory, tokens, ys = elmur.initial_memory(batch), no_tokens(elmur, batch), []
    with th.no_grad():
        for begin, end in zip([0, *cuts], [*cuts, time], strict=True):
            if begin < end:
                y, memory, tokens = elmur.unroll(
                    x[:, begin:end], memory, tokens, starts[:, begin:end], detach_memory=True, need_state=True
                )
                ys.append(y)
    th.testing.assert_close(th.cat(ys, 1), stepped.detach(), **tolerance)
    th.testing.assert_close(memory.slots, state.memory.slots.detach(), **tolerance)
    assert th.equal(memory.anchors, state.memory.anchors)
    assert th.equal(memory.position, state.memory.position)

    reopened = elmur.open_segment(tokens, memory)
    token, start = th.randn(batch, 8).to(x.dtype), th.zeros(batch)
    y, _ = elmur.step(token, reopened, start)
    th.testing.assert_close(y, elmur.step(token, state, start)[0], **tolerance)


def test_step_leaves_its_input_state_as_it_is() -> None:
    elmur, _ = build(BASE)
    state = elmur.initial_state(2)
    for t in range(2 * BASE["L"]):
        before = [th.clone(leaf) for leaf in th.utils._pytree.tree_leaves(state)]
        _, after = elmur.step(th.randn(2, 8).double(), state, th.tensor([t == 2, False]))
        assert all(map(th.equal, before, th.utils._pytree.tree_leaves(state)))
        state = after


def test_reset_equals_fresh() -> None:
    elmur, _ = build(BASE)
    x = th.randn(1, 20, 8).double()
    starts = th.zeros(1, 20, dtype=th.bool)
    starts[0, 7] = True
    y, memory, _ = unroll(elmur, x, starts)
    fresh, fresh_memory, _ = unroll(elmur, x[:, 7:], th.zeros(1, 13))
    th.testing.assert_close(y[:, 7:], fresh, atol=1e-12, rtol=0)
    th.testing.assert_close(memory.slots, fresh_memory.slots, atol=1e-12, rtol=0)


@pytest.mark.parametrize("poison", [1e6, -1e6])
def test_batch_rows_are_independent(poison: float) -> None:
    elmur, _ = build(BASE)
    x = th.randn(4, 14, 8).double()
    starts = th.rand(4, 14) < 0.2
    poisoned = x.clone()
    poisoned[1::2] = poison
    for run in (unroll, step_through):
        assert th.equal(run(elmur, x, starts)[0][::2], run(elmur, poisoned, starts)[0][::2])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("how", [unroll, step_through])
def test_rows_that_are_not_finite_leave_the_others_and_their_gradients_as_they_are(value: float, how) -> None:
    elmur, _ = build(BASE)
    x = th.randn(4, 14, 8).double()
    starts = th.rand(4, 14, generator=th.Generator().manual_seed(0)) < 0.3
    results = []
    for row in (x[1], th.full_like(x[1], value)):
        x[1] = row
        tokens = x.clone().requires_grad_()
        y = how(elmur, tokens, starts)[0][[0, 2, 3]]
        (gradient,) = th.autograd.grad(y.square().sum(), tokens)
        results.append((y, gradient[[0, 2, 3]]))
    for clean, other in zip(*results, strict=True):
        th.testing.assert_close(clean, other, atol=1e-12, rtol=0)


def test_padding_beyond_the_lengths_changes_nothing() -> None:
    elmur, _ = build(BASE)
    lengths = th.tensor([3, 1, 2])
    x = th.randn(3, 3, 8).double()
    padded = x.masked_fill((th.arange(3) >= lengths[:, None])[..., None], 1e6)
    real = th.arange(3) < lengths[:, None]
    (y, memory), (y_padded, memory_padded) = (elmur.segment(z, elmur.initial_memory(3), lengths) for z in (x, padded))
    assert th.equal(y[real], y_padded[real])
    assert all(map(th.equal, memory, memory_padded))


def test_outputs_depend_on_the_past_alone() -> None:
    elmur, _ = build(BASE)
    x = th.randn(1, 12, 8).double().requires_grad_()
    y, _, _ = unroll(elmur, x, th.zeros(1, 12))
    for t in (0, 4, 11):
        (grad,) = th.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        assert (grad[0, t + 1 :] == 0).all()
        assert (grad[0, : t + 1] != 0).any(-1).all()  # through memory too: the first token is several segments away


def test_detached_memory_stops_the_gradient_at_segment_borders() -> None:
    elmur, _ = build(BASE)
    x = th.randn(1, 9, 8).double().requires_grad_()
    y, _, _ = unroll(elmur, x, th.zeros(1, 9), detach=True)
    (grad,) = th.autograd.grad(y[0, 8].sum(), x)
    assert (grad[0, :6] == 0).all()
    assert (grad[0, 6:] != 0).all()


def test_slots_are_filled_in_order_and_then_the_least_recently_written_is_overwritten() -> None:
    elmur, _ = build(BASE | {"memory_size": 3, "L": 2})
    memory, seen = elmur.initial_memory(1), []
    for _ in range(5):
        _, memory = elmur.segment(th.randn(1, 2, 8).double(), memory, th.tensor([2]))
        seen.append(memory.anchors[0].tolist())
    assert seen == [[1, -1, -1], [1, 3, -1], [1, 3, 5], [7, 3, 5], [7, 9, 5]]


def test_lambda_zero_keeps_a_written_slot_and_one_replaces_it() -> None:
    slots = {}
    for blend in (0.0, 0.25, 1.0):
        elmur, _ = build(BASE | {"memory_size": 1, "lru_blend_alpha": blend})
        x = th.randn(1, 6, 8, generator=th.Generator().manual_seed(3)).double()
        elmur.initial_slots.fill_(0.1)
        _, first, _ = unroll(elmur, x[:, :3], th.zeros(1, 3))
        _, slots[blend], _ = unroll(elmur, x, th.zeros(1, 6))
    assert th.equal(slots[0.0].slots, first.slots)
    th.testing.assert_close(slots[0.25].slots, 0.25 * slots[1.0].slots + 0.75 * first.slots)


def test_ten_million_steps_into_an_episode_the_numbers_are_those_of_the_start() -> None:
    """Only differences of times enter, so a stack far from its start computes what it would near it."""
    elmur, _ = build(BASE | {"max_seq_len": 64})
    x, starts = th.randn(2, 7, 8).double(), th.zeros(2, 7)
    _, memory, tokens = unroll(elmur, th.randn(2, 7, 8).double(), starts)
    shift = 3_000_000 * elmur.segment_length
    later = Memory(memory.slots, memory.anchors + shift, memory.position + shift)
    (y, after, _), (y_later, after_later, _) = (
        elmur.unroll(x, m, tokens, starts, detach_memory=True, need_state=True) for m in (memory, later)
    )
    assert th.equal(y, y_later)
    assert th.equal(after.anchors + shift, after_later.anchors)


def test_dropout_acts_in_training_only() -> None:
    config = ElmurConfig(
        d_model=8, n_heads=2, segment_length=3, memory_size=2, dropout=0.5, attention_dropout=0.5, memory_dropout=0.5
    )
    elmur, x, starts = Elmur(config), th.randn(2, 9, 8), th.zeros(2, 9)
    elmur.train()
    assert not th.equal(unroll(elmur, x, starts)[0], unroll(elmur, x, starts)[0])
    elmur.eval()
    assert th.equal(unroll(elmur, x, starts)[0], unroll(elmur, x, starts)[0])


def test_each_dropout_has_its_own_place() -> None:
    x, starts = th.randn(1, 9, 8), th.zeros(1, 9)
    for name in ("dropout", "attention_dropout", "memory_dropout"):
        elmur = Elmur(ElmurConfig(d_model=8, n_heads=2, segment_length=3, memory_size=2, **{name: 0.5}))
        first, second = unroll(elmur, x, starts)[0], unroll(elmur, x, starts)[0]
        same = th.isclose(first, second).all(-1)[0]
        assert not same[3:].any()
        assert same[:3].all() == (name == "memory_dropout")


@pytest.mark.slow
def test_compiled_stack_gives_the_same_outputs_and_gradients() -> None:
    eager = Elmur(ElmurConfig(d_model=8, n_heads=2, segment_length=3, memory_size=2))
    compiled = Elmur(ElmurConfig(d_model=8, n_heads=2, segment_length=3, memory_size=2, compile=True))
    compiled.load_state_dict(eager.state_dict())
    eager, compiled = eager.double(), compiled.double()  # in which no gradient is but rounding
    for batch in (2, 5):
        x, starts = th.randn(batch, 8, 8).double(), th.zeros(batch, 8)
        outputs = [unroll(elmur, x, starts)[0] for elmur in (eager, compiled)]
        th.testing.assert_close(*outputs)
        for y in outputs:
            y.square().sum().backward()
        for (name, a), b in zip(eager.named_parameters(), compiled.parameters(), strict=True):
            th.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_compiled_steps_give_the_same_outputs(batch: int) -> None:
    config = ElmurConfig(d_model=8, n_heads=2, segment_length=3, memory_size=2, ffn="moe", n_routed_experts=2)
    eager, compiled = Elmur(config), Elmur(dataclasses.replace(config, compile=True))
    compiled.load_state_dict(eager.state_dict())
    x, starts = th.randn(batch, 8, 8), th.arange(8).expand(batch, -1) == 4
    with th.no_grad():
        states = [elmur.initial_state(batch) for elmur in (eager, compiled)]
        for token, start in zip(x.unbind(1), starts.unbind(1), strict=True):
            expected, states[0] = eager.step(token, states[0], start, inplace=True)
            y, states[1] = compiled.step(token, states[1], start, inplace=True)
            th.testing.assert_close(y, expected)


def test_slots_that_no_row_has_written_may_be_shared_or_not() -> None:
    """Only slots that equal the stack's own initial ones are taken for these; the numbers are the same either way."""
    elmur, _ = build(BASE | {"memory_size": 40})
    x, lengths = th.randn(2, 3, 8).double(), th.full((2,), 3)
    _, memory = elmur.segment(x, elmur.initial_memory(2), lengths)
    assert elmur.count_own(memory, (memory.anchors != EMPTY).any(0)) == 1
    other = memory.rows(th.tensor([0, 1, 1]))  # the third row's last slot is another, so that nothing is shared
    other.slots[2, :, -1] += 1
    assert elmur.count_own(other, (other.anchors != EMPTY).any(0)) == 40
    more = th.cat((x, x[1:]))
    th.testing.assert_close(
        elmur.segment(more, other, th.full((3,), 3))[0][:2], elmur.segment(x, memory, lengths)[0], atol=1e-12, rtol=0
    )


def test_chains_of_different_age_are_replayed_as_alone() -> None:
    """With many slots, of which the write of the older and shorter chain is the last."""
    elmur, _ = build(BASE | {"memory_size": 40})
    length = elmur.segment_length
    _, old = elmur.segment(th.randn(1, length, 8).double(), elmur.initial_memory(1), th.full((1,), length))
    for _ in range(8):
        _, old = elmur.segment(th.randn(1, length, 8).double(), old, th.full((1,), length))
    memories = elmur.initial_memory(1), old
    chains = th.randn(2 * length, 8).double(), th.randn(length, 8).double()
    both = Memory(*map(th.cat, zip(*memories, strict=True)))
    together = th.cat((chains[0][:length], chains[1], chains[0][length:]))  # segment-major
    lengths = th.tensor([2 * length, length])
    y, _ = elmur.replay(together, both, lengths, need_memory=True)
    alone = [
        elmur.replay(chain, memory, th.tensor([len(chain)]), need_memory=True)[0]
        for chain, memory in zip(chains, memories, strict=True)
    ]
    th.testing.assert_close(y, th.cat((alone[0][:length], alone[1], alone[0][length:])), atol=1e-12, rtol=0)


@pytest.mark.parametrize("variant", ["post-norm", "pre-norm", "gated"])
def test_reads_of_shared_slots_have_the_gradients_of_reads_of_each_rows_own(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elmur, _ = build(BASE | VARIANTS[variant] | {"memory_size": 40})
    x = th.randn(2, 11, 8).double().requires_grad_()
    starts = th.zeros(2, 11)
    starts[1, 4] = 1  # so that rows hold different numbers of written slots
    count_own = Elmur.count_own
    counts = []

    def gradients() -> list[th.Tensor | None]:
        loss = unroll(elmur, x, starts)[0].square().sum()
        return th.autograd.grad(loss, [x, *elmur.parameters()], allow_unused=True)

    monkeypatch.setattr(Elmur, "count_own", lambda self, *memory: counts.append(count_own(self, *memory)) or counts[-1])
    shared = gradients()
    assert {1, 2, 3} <= set(counts)
    monkeypatch.setattr(Elmur, "count_own", lambda self, *memory: self.config.memory_size)
    own = gradients()
    assert shared[0].abs().max() > 0
    for name, a, b in zip(("x", *dict(elmur.named_parameters())), shared, own, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            th.testing.assert_close(a, b, atol=1e-10, rtol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("how", [unroll, step_through])
def test_runs_under_bf16_autocast(how) -> None:
    elmur, x, starts = (
        Elmur(ElmurConfig(d_model=8, n_heads=2, segment_length=3, memory_size=2)),
        th.randn(2, 9, 8),
        th.zeros(2, 9),
    )
    exact = how(elmur, x, starts)[0]
    with th.autocast("cpu", dtype=th.bfloat16):
        y = how(elmur, x, starts)[0]
    th.testing.assert_close(y.float(), exact, atol=0.1, rtol=0.1)


def test_a_copy_of_a_compiled_stack_runs_its_own_weights() -> None:
    elmur = Elmur(ElmurConfig(d_model=8, n_heads=2, compile=True))
    assert getattr(elmur._run_step, "__self__", None) is not elmur
    assert not any(getattr(value, "__self__", None) is elmur for value in vars(copy.deepcopy(elmur)).values())


def test_a_pickle_of_a_compiled_core_runs_eagerly_and_a_copy_shares_what_is_compiled() -> None:
    core = Elmur(ElmurConfig(d_model=8, n_heads=2, segment_length=4, compile=True))
    assert pickle.loads(pickle.dumps(core))._run_step is Elmur.token_step
    assert copy.deepcopy(core)._run_step is core._run_step


def test_a_segment_that_is_too_long_for_self_attention_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`segment_length` must be an integer of at most 8192, .* Received 100000\."):
        Elmur(ElmurConfig(segment_length=100_000, d_model=8, n_heads=2))

"""minGRU, FFM, SHM and GTrXL compute what their papers say, and train as policies."""

import math
from typing import Any

import pytest
import torch as th
from torch import Tensor
from torch.nn import functional as F

import helpers
from sb3_elmur import RecurrentPPO
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.ffm import FFMLayer
from sb3_elmur.core.gtrxl import GTrXLLayer
from sb3_elmur.core.mingru import MinGRULayer
from sb3_elmur.core.recurrent import RecurrentCore
from sb3_elmur.core.registry import make_core
from sb3_elmur.core.shm import SHMLayer
from sb3_elmur.testing import check_core

OWN_SIZES: dict[str, dict[str, Any]] = {
    "mingru": {},
    "ffm": {"trace_size": 5, "context_size": 3},
    "shm": {"matrix_size": 5},
    "gtrxl": {"window": 4},
}
every_core = pytest.mark.parametrize("core", OWN_SIZES)


def build(core: str, **arguments: Any) -> Any:
    """A core in float64."""
    th.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 8, "n_heads": 2, "segment_length": 3}
    return make_core(ElmurConfig(core=core, **(sizes | arguments))).double().eval()


# The equations of the papers, step by step over one episode (T, D), in NumPy's order of thought


def plain_mingru(layer: MinGRULayer, x: Tensor) -> Tensor:
    hidden, outputs = th.zeros(8).double(), []
    for token in x:
        z = th.sigmoid(layer.gate(layer.norm(token)))
        hidden = (1 - z) * hidden + z * layer.candidate(layer.norm(token))
        outputs.append(token + hidden)
        outputs[-1] = outputs[-1] + layer.ffn(layer.ffn_norm(outputs[-1]))
    return th.stack(outputs)


def plain_ffm(layer: FFMLayer, x: Tensor) -> Tensor:
    gamma = th.exp(th.complex(-layer.log_decay.exp()[:, None], -layer.frequency[None].expand(len(layer.log_decay), -1)))
    trace, outputs = th.zeros_like(gamma), []
    for token in x:
        one, two, three, four = layer.maps(token).split(layer.sizes)
        trace = gamma * trace + (one * two.sigmoid())[:, None]
        z = F.layer_norm(layer.mix(th.stack((trace.real, trace.imag), dim=-1).flatten()), (8,))
        outputs.append(z * three.sigmoid() + four * (1 - three.sigmoid()))
    return th.stack(outputs)


def plain_shm(layer: SHMLayer, x: Tensor) -> Tensor:
    matrix, outputs = th.zeros(layer.size, layer.size).double(), []
    for t, token in enumerate(layer.norm(x)):
        key, query, value, v_c, eta = layer.maps(token).split((*[layer.size] * 4, 1))
        key, query = key.relu() / (key.relu().sum() + 1e-5), query.relu() / (query.relu().sum() + 1e-5)
        calibration = 1 + th.tanh(th.outer(layer.theta[layer.draws[t]], v_c))
        matrix = matrix * calibration + eta.sigmoid() * th.outer(value, key)
        outputs.append(layer.out(matrix @ query + layer.shortcut(token)))
    return th.stack(outputs)


def plain_gtrxl(layer: GTrXLLayer, x: Tensor) -> Tensor:
    def gate(of: Any, x: Tensor, y: Tensor) -> Tensor:
        (w_r, w_z, w_g), (u_r, u_z) = of.of_y.weight.chunk(3), of.of_x.weight.chunk(2)
        r, z = th.sigmoid(w_r @ y + u_r @ x), th.sigmoid(w_z @ y + u_z @ x - of.bias)
        return (1 - z) * x + z * th.tanh(w_g @ y + of.of_reset.weight @ (r * x))

    attention, size, outputs = layer.attention, 8 // layer.attention.n_heads, []
    for t, token in enumerate(x):
        begin = max(0, t - layer.window)
        memory = layer.norm(x[begin : t + 1])
        read = []
        for head in range(attention.n_heads):
            rows = slice(head * size, (head + 1) * size)
            q = attention.query.weight[rows] @ memory[-1]
            k, v = memory @ attention.key.weight[rows].T, memory @ attention.value.weight[rows].T
            r = (attention.sinusoids @ attention.distance.weight[rows].T)[: t - begin + 1].flip(0)  # of the oldest first
            scores = k @ (q + attention.content_bias[head, 0]) + r @ (q + attention.distance_bias[head, 0])
            read.append((scores / size**0.5).softmax(0) @ v)
        y = gate(layer.gate, token, (attention.out.weight @ th.cat(read)).relu())
        outputs.append(gate(layer.ffn_gate, y, layer.ffn(layer.ffn_norm(y)).relu()))
    return th.stack(outputs)


PLAIN: dict[str, Any] = {"mingru": plain_mingru, "ffm": plain_ffm, "shm": plain_shm, "gtrxl": plain_gtrxl}


@every_core
def test_a_layer_computes_the_papers_equations(core: str) -> None:
    made = build(core, n_layers=2, core_kwargs=OWN_SIZES[core])
    for parameter in made.parameters():
        th.nn.init.normal_(parameter, std=0.4)
    x = th.randn(2, 11, 8).double()
    expected = th.stack([PLAIN[core](made.layers[1], PLAIN[core](made.layers[0], episode)) for episode in x])
    th.testing.assert_close(made.scan(x, made.initial(2))[0], expected, rtol=0, atol=1e-12)


@every_core
@pytest.mark.parametrize("arguments", [{"n_layers": 1}, {"n_layers": 3, "segment_length": 2}], ids=str)
def test_a_core_with_sizes_of_its_own_passes_the_check(core: str, arguments: dict[str, Any]) -> None:
    check_core(core, core_kwargs=OWN_SIZES[core], **arguments)


@every_core
def test_many_steps_at_once_equal_one_by_one(core: str) -> None:
    """Beyond the chunk of FFM's powers, and as far as a window reaches."""
    made = build(core, n_layers=1, core_kwargs=OWN_SIZES[core])
    x = th.randn(1, 140, 8).double()
    y, state = made.scan(x, made.initial(1))
    expected, after = RecurrentCore.scan(made, x, made.initial(1))
    th.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    th.testing.assert_close(state, after, rtol=0, atol=1e-10)


@every_core
def test_the_state_does_not_depend_on_the_segment_length(core: str) -> None:
    shapes = [[part.shape for part in build(core, segment_length=length).initial(2)] for length in (3, 50)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("core", "name"), [("ffm", "trace_size"), ("ffm", "context_size"), ("shm", "matrix_size"), ("gtrxl", "window")]
)
def test_a_size_below_one_is_refused(core: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`.* Received 0"):
        build(core, core_kwargs={name: 0})


@pytest.mark.parametrize("d_model", [9, 10])
def test_heads_must_divide_the_width_of_a_transformer(d_model: int) -> None:
    with pytest.raises(ValueError, match=f"`d_model`.* Received {d_model}"):
        build("gtrxl", d_model=d_model, n_heads=3 if d_model == 9 else 4)


def test_gates_of_a_mingru_begin_where_the_policy_says() -> None:
    assert (build("mingru", gate_bias=-3.0).layers[0].gate.bias == -3.0).all()


def test_traces_begin_with_the_rates_of_the_paper_and_do_not_overflow() -> None:
    made = build("ffm", n_layers=1)
    (layer,) = made.layers
    kept = (-1024 * layer.log_decay.exp()).exp()
    assert kept.max().item() == pytest.approx(0.01, rel=1e-3)
    assert kept.min() < 1e-300
    assert (2 * math.pi / layer.frequency).detach().numpy() == pytest.approx([1, 342, 683, 1024], rel=1e-6)
    x = th.ones(1, 3_000, 8)
    y, (trace,) = made.float().scan(x, made.initial(1))
    assert y.isfinite().all()
    assert trace.isfinite().all()


def test_calibrations_are_drawn_anew_at_every_step_and_come_again_after_1024() -> None:
    made = build("shm", n_layers=1, core_kwargs={"matrix_size": 4})
    assert made.layers[0].draws[:20].unique().numel() > 10
    matrix, step = made.initial(1)
    token = th.randn(1, 8).double()

    def after(t: int) -> Tensor:
        return made.advance(token, (matrix + 1, step + t))[1][0]

    assert not th.equal(after(0), after(1))
    _, (_, late) = made.scan(token[:, None].expand(-1, 1024, -1), (matrix, step))
    assert th.equal(late, step)


def test_a_window_ends_where_it_says() -> None:
    made = build("gtrxl", n_layers=1, core_kwargs={"window": 4})
    x = th.randn(1, 9, 8).double().requires_grad_()
    (gradient,) = th.autograd.grad(made.scan(x, made.initial(1))[0][0, -1].sum(), x)
    assert (gradient[0, :4] == 0).all()
    assert (gradient[0, 4:] != 0).any(1).all()


def test_a_gated_transformer_begins_close_to_the_identity() -> None:
    made = build("gtrxl", n_layers=2, d_model=64, n_heads=4)
    x = th.randn(4, 20, 64).double()
    y, _ = made.scan(x, made.initial(4))
    assert F.cosine_similarity(x, y, dim=-1).min() > 0.85


@every_core
def test_a_cue_is_learned_across_segments(core: str) -> None:
    cue = th.randint(0, 2, (64,), generator=th.Generator().manual_seed(0)) * 2.0 - 1
    x = th.zeros(64, 6, 8)
    x[:, 0, 0] = cue
    made = build(core, n_layers=1).float().train()
    optimizer = th.optim.Adam(made.parameters(), 3e-2)
    for _ in range(60):
        loss = (made.scan(x, made.initial(64))[0][:, -1, 0] - 0.5 * cue).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


@every_core
def test_runs_under_bf16_autocast(core: str) -> None:
    made = build(core, core_kwargs=OWN_SIZES[core]).float()
    x = th.randn(2, 9, 8)
    exact, _ = made.scan(x, made.initial(2))
    with th.autocast("cpu", dtype=th.bfloat16):
        y, _ = made.scan(x, made.initial(2))
    th.testing.assert_close(y.float(), exact, atol=0.1, rtol=0.1)


@every_core
def test_a_policy_trains_and_is_loaded_as_it_was(core: str, tmp_path: Any) -> None:
    policy_kwargs = {"core": core, "core_kwargs": OWN_SIZES[core]}
    model = helpers.make_model(RecurrentPPO, helpers.random_envs(2), policy_kwargs=policy_kwargs, n_epochs=1)
    assert max(helpers.replay_differences(model, rollouts=2)) < 1e-4
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model")
    for (name, one), other in zip(model.policy.state_dict().items(), loaded.policy.state_dict().values(), strict=True):
        assert th.equal(one, other), name

"""Wrong hyper-parameters are refused by name, value and what is allowed."""

import pytest
from torch import nn

from sb3_elmur.core.backbone import Backbone
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.registry import make_core


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lru_blend": 1.5}, r"`lru_blend` must be a number in \[0, 1\]. Received 1.5."),
        ({"lru_blend": -0.1}, r"`lru_blend` .* Received -0.1."),
        ({"lru_blend": float("nan")}, r"`lru_blend` .* Received nan."),
        ({"memory_size": -1}, r"`memory_size` must be an integer of at least 0. Received -1."),
        ({"core": "rnn"}, r"`core` must be one of 'elmur', 'gru', 'lstm', .* Received 'rnn'."),
        ({"core": 3}, r"`core` .* Received 3."),
        ({"core_kwargs": [1]}, r"`core_kwargs` .* Received .1.\."),
        ({"segment_length": 0}, r"`segment_length` must be an integer of at least 1. Received 0."),
        ({"segment_length": 2.5}, r"`segment_length` .* Received 2.5."),
        ({"n_layers": True}, r"`n_layers` .* Received True."),
        ({"memory_init_std": -1}, r"`memory_init_std` must be a number in \[0, inf\). Received -1."),
        ({"memory_init_std": float("inf")}, r"`memory_init_std` .* Received inf."),
        ({"dropout": 1.0}, r"`dropout` must be a number in \[0, 1\). Received 1.0."),
        ({"ffn": "mlp"}, r"`ffn` must be one of 'swiglu', 'gelu', 'moe'. Received 'mlp'."),
        ({"norm": "batch"}, r"`norm` must be one of 'layer', 'rms'. Received 'batch'."),
        ({"blend": "mean"}, r"`blend` must be one of 'fixed', 'learned', 'gated', .* Received 'mean'."),
        ({"router_gate": "top"}, r"`router_gate` must be one of 'softmax', 'renormalised'. Received 'top'."),
        ({"norm_first": "yes"}, r"`norm_first` must be True or False. Received 'yes'."),
        ({"compile": "always"}, r"`compile` must be True, False or 'auto'. Received 'always'."),
        ({"d_ff": 0}, r"`d_ff` must be an integer of at least 1. Received 0."),
        (
            {"ffn": "moe", "n_routed_experts": 2, "n_shared_experts": 1, "top_k": 4},
            r"`top_k` .* at most .* \(3\). Received 4.",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ElmurConfig(**arguments)


class Mine(Elmur):
    """A core of somebody's own."""


@pytest.mark.parametrize("core", ["elmur", "gtrxl", Elmur, Mine])
def test_attention_refuses_a_width_that_it_cannot_have(core: str | type) -> None:
    with pytest.raises(ValueError, match=r"`d_model` must be divisible by `n_heads` \(4\). Received 30."):
        make_core(ElmurConfig(core=core, d_model=30, n_heads=4))
    with pytest.raises(ValueError, match=r"`d_model` must be even, for pairs of sine and cosine. Received 9."):
        make_core(ElmurConfig(core=core, d_model=9, n_heads=3))
    make_core(ElmurConfig(core="gru", d_model=9, n_heads=4))


@pytest.mark.parametrize("core", ["elmur", Elmur, Mine])
def test_a_pre_norm_stack_ends_with_a_norm_however_it_is_named(core: str | type) -> None:
    assert isinstance(Backbone(3, ElmurConfig(core=core, d_model=8, n_heads=2, norm_first=True)).norm, nn.LayerNorm)
    assert isinstance(Backbone(3, ElmurConfig(core=core, d_model=8, n_heads=2)).norm, nn.Identity)


def test_the_papers_settings_are_accepted() -> None:
    """T-Maze, RememberColor, TakeItBack and POPGym as published."""
    for layers, heads, width, routed, top_k, shared in ((2, 2, 128, 2, 3, 2), (4, 16, 128, 16, 2, 1), (2, 16, 32, 1, 1, 1),
                                                        (12, 4, 64, 1, 1, 2)):  # fmt: skip
        ElmurConfig(
            n_layers=layers, n_heads=heads, d_model=width, ffn="moe",
            n_routed_experts=routed, top_k=top_k, n_shared_experts=shared, memory_init_std=0,
        )  # fmt: skip

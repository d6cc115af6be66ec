"""Failure signs: each is warned of once, with a cure, when it lasts."""

import warnings

import pytest

from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.monitoring.failure_signs import PATIENCE, SIGNS, Watchdog
from sb3_elmur.monitoring.measures import Measures

HEALTHY: Measures = {
    "slot_variation": 0.1, "slot_similarity": 0.8, "slot_norm_empty": 0.8, "slot_norm_written": 8.0, "write_grad_share": 1e-3,
    "read_written": 0.3, "share_written": 0.5, "gate_slope": 0.03, "blend": 0.0, "expert_load_min": 0.5,
    "update_size": 0.2,
}  # fmt: skip
SICK: dict[str, Measures] = {
    "collapsed slots": {"slot_variation": 0.001, "slot_similarity": 0.999},
    "slots that cannot be told apart": {"slot_norm_empty": 1e-6, "slot_similarity": 0.95},
    "dead write path": {"write_grad_share": 0.0},
    "attention on empty slots": {"read_written": 0.001},
    "updates that go too far": {"update_size": 3.0},
    "stuck gate": {"gate_slope": 1e-4, "blend": 1.0},
    "stuck lambda": {"blend": 0.999},
    "starved experts": {"expert_load_min": 0.0},
}
CURES = {
    "collapsed slots": "memory_init_std",
    "slots that cannot be told apart": "memory_init_std",
    "dead write path": "bptt_segments",
    "attention on empty slots": "memory_size",
    "updates that go too far": "trust_region",
    "stuck gate": "gate_bias",
    "stuck lambda": "gated",
    "starved experts": "aux_loss_coef",
}


def warned(blend: str, *seen: Measures) -> list[str]:
    watchdog = Watchdog(ElmurConfig(blend=blend))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for measures in seen:
            watchdog.look(measures)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("sign", SIGNS)
def test_a_lasting_sign_is_warned_of_once_with_a_cure(sign: str) -> None:
    blend = "learned" if sign == "stuck lambda" else "gated"
    healthy = HEALTHY | ({"blend": 0.5} if blend == "learned" else {})
    sick = healthy | SICK[sign]
    (message,) = warned(blend, *[*[sick] * 3 * PATIENCE, healthy] * 3)
    assert sign in message
    assert CURES[sign] in message


@pytest.mark.parametrize("sign", SIGNS)
def test_a_passing_sign_and_a_healthy_memory_are_not_warned_of(sign: str) -> None:
    blend = "learned" if sign == "stuck lambda" else "gated"
    healthy = HEALTHY | ({"blend": 0.5} if blend == "learned" else {})
    assert not warned(blend, *[*[healthy | SICK[sign]] * (PATIENCE - 1), healthy] * 3)


def test_measures_in_parts_count_together() -> None:
    sick = {"write_grad_share": 0.0}
    (message,) = warned("fixed", *[sick, {"occupancy": 1.0}] * PATIENCE)
    assert "dead write path" in message


def test_a_constant_lambda_of_1_is_no_sign() -> None:
    assert not warned("fixed", *[HEALTHY | {"blend": 1.0}] * 2 * PATIENCE)

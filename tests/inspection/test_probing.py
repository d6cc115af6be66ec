"""Probes: they find what is there, and nothing else."""

import numpy as np
import pytest
import torch as th

from sb3_elmur.inspection.probing import make_label, probe


def accuracy(contents: th.Tensor, classes: th.Tensor) -> list[float]:
    decoded = probe(contents, classes, int(classes.max()) + 1)
    return (decoded == classes[:, None]).double().mean(0).tolist()


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_probe_finds_a_linear_code_under_noise_and_no_code_where_there_is_none(n_classes: int) -> None:
    th.manual_seed(0)
    classes = th.arange(400) % n_classes
    noise = th.randn(400, 2, 16)
    code = th.randn(n_classes, 16)
    contents = noise.clone()
    contents[:, 0] += 3 * code[classes]
    found, nothing = accuracy(contents, classes)
    assert found > 0.95
    assert abs(nothing - 1 / n_classes) < 0.1


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_contents_does_not_matter(scale: float) -> None:
    th.manual_seed(0)
    classes = th.arange(100) % 2
    contents = th.randn(100, 1, 8)
    contents[:, 0, 3] += 6.0 * classes
    assert accuracy(contents * scale, classes) == pytest.approx(accuracy(contents, classes), abs=0.02)


def test_constant_contents_are_at_chance() -> None:
    classes = th.tensor([0] * 30 + [1] * 70)
    assert accuracy(th.ones(100, 1, 8), classes) == pytest.approx([0.7])


def test_labels() -> None:
    label = make_label("cue", np.array([1.0, -1.0, 1.0, 1.0]))
    assert label.classes == ("-1", "1")
    assert label.of.tolist() == [1, 0, 1, 1]
    assert label.chance == 0.75
    label = make_label("many", np.arange(20.0))
    assert label.classes == ("at most 9.5", "above 9.5")
    assert label.of.tolist() == [0] * 10 + [1] * 10
    label = make_label("mostly the largest", np.minimum(np.arange(40.0), 15.0))
    assert label.of.bincount().tolist() == [15, 25]
    with pytest.raises(ValueError, match="`label` must differ between episodes"):
        make_label("same", np.ones(4))

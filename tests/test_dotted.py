"""Properties of classes that are named by dotted paths."""

from pathlib import Path

import pytest
from torch import nn

from sb3_elmur.encoders import FourLayerExtractor
from sb3_elmur.settings import find_class, with_classes

EXTRACTOR = "sb3_elmur.encoders.FourLayerExtractor"


def test_classes_are_found_and_other_arguments_stay_as_they_are() -> None:
    arguments = {
        "features_extractor_class": EXTRACTOR,
        "activation_fn": nn.ELU,
        "core": "gru",
        "optimizer_class": "torch.optim.SGD",
    }
    found = with_classes(arguments)
    assert found["features_extractor_class"] is FourLayerExtractor
    assert found["optimizer_class"].__name__ == "SGD"
    assert (found["activation_fn"], found["core"]) == (nn.ELU, "gru")
    assert arguments["features_extractor_class"] == EXTRACTOR


@pytest.mark.parametrize(
    "path", ["FourLayerExtractor", "sb3_elmur.encoders.FiveLayerExtractor", "absent.Class", "math.pi", ""]
)
def test_what_is_no_class_is_refused_by_name(path: str) -> None:
    with pytest.raises(ValueError, match=f"`features_extractor_class` must be the dotted path of a class. Received '{path}'."):
        with_classes({"features_extractor_class": path})


def test_a_module_that_lacks_what_it_imports_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking.py").write_text("import absent_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_module"):
        find_class("lacking.Class")

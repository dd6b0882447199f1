"""Networks as Core ML packages, computed op by op: Core ML itself runs on Apple's systems only."""

import sys
from pathlib import Path

import pytest
import torch

from rfserve.export.cli import main
from rfserve.export.errors import EdgeError, ParityError
from rfserve.export.publication import Source, build_network
from rfserve.export.scaling import Scaling
from rfserve.export.spec import find

# coremltools leaves the folder of a package to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


@pytest.fixture
def edge():
    """The module, where its extra is installed."""
    pytest.importorskip("coremltools", reason="the extra rfserve[coreml] is not installed")
    from rfserve.export import edge

    return edge


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("localization_net", ("variant", "tiny")), ("heimdall_net_pro", ("encoder_order", "heimdall-1.0"))],
    ids=["localization_net", "heimdall_net_pro"],
)
def test_converted_network_computes_what_pytorch_does(edge, name, chosen, tmp_path: Path, capsys):
    option, value = chosen
    package = tmp_path / f"{name}.mlpackage"
    assert main(["coreml", name, f"--{option.replace('_', '-')}", value, "--output", str(package)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(str(package))
    assert f"{2 if name == 'localization_net' else 5} cases agree" in err
    assert list(tmp_path.iterdir()) == [package]
    description = edge.coremltools.models.MLModel(str(package), skip_model_load=True).get_spec().description
    assert [f.name for f in description.input] == [t.name for t in find(name).inputs]
    facts = dict(description.metadata.userDefined)
    assert facts["rfserve.weights"] == "untrained (seed 0)"
    assert facts[f"rfserve.{option}"] == value


def test_gate_examines_the_numbers_of_receivers_that_its_page_says(edge):
    """There are as many slots as are served: more receivers never reach the package."""
    spec = find("heimdall_net")
    examined = [int(inputs["mask"].sum()) for valid, inputs in edge._cases(spec) if valid]
    assert examined == [*edge.RECEIVERS, spec.bounds["receivers"].served]
    *few, most = map(str, examined)
    page = (Path(__file__).parents[2] / "export" / "EDGE.md").read_text()
    assert f"{', '.join(few)} and {most} receivers in any order" in page
    assert f"({most} receiver slots, 1024 samples)" in page


def test_package_that_computes_something_else_is_not_written(edge, tmp_path: Path):
    spec = find("heimdall_net")
    built = build_network(spec, Source())

    def spoil(step: str) -> None:
        if step.startswith("comparing"):
            with torch.no_grad():
                built.module.network.position_head.bias += 0.01

    with pytest.raises(ParityError, match="differs from eager PyTorch in positions, case 1"):
        edge.write(spec, built, tmp_path / "heimdall_net.mlpackage", spoil)
    assert list(tmp_path.iterdir()) == []


def test_sigma_of_a_network_that_knows_a_single_place_is_compared_there(edge, tmp_path: Path):
    """Anywhere else it is only the distance, and 10 m of it would be lost in 1000 km."""
    spec = find("heimdall_net")
    metres = (1000.0, 1000.0)
    scaling = Scaling(origin=(40.76, -111.84), position_scale=(*metres, 1.0), target_scale=metres, reach_m=2000.0)
    built = build_network(spec, Source(scaling=scaling))

    def spoil(step: str) -> None:
        if step.startswith("comparing"):
            with torch.no_grad():
                built.module.network.uncertainty_head[2].bias += 0.01

    with pytest.raises(ParityError, match="differs from eager PyTorch in uncertainties, case 1"):
        edge.write(spec, built, tmp_path / "heimdall_net.mlpackage", spoil)


@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt:RuntimeWarning")
def test_network_that_answers_nan_is_not_written(edge, tmp_path: Path):
    spec = find("heimdall_net")
    built = build_network(spec, Source())
    norm = next(m for m in built.module.modules() if isinstance(m, torch.nn.BatchNorm1d))
    norm.running_var[0] = -1.0
    with pytest.raises(ParityError, match=r"itself answers positions and uncertainties that are not finite .* case 1;"):
        edge.write(spec, built, tmp_path / "heimdall_net.mlpackage", lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["taken.mlpackage", "model.mlmodel", "nowhere/model.mlpackage"])
def test_name_that_cannot_be_is_refused_before_anything_is_converted(edge, name, tmp_path: Path):
    (tmp_path / "taken.mlpackage").mkdir()
    spec = find("localization_net")
    built = build_network(spec, Source(variant="tiny"))
    with pytest.raises(EdgeError, match=r"expected a new name that ends in \.mlpackage"):
        edge.write(spec, built, tmp_path / name, pytest.fail)


def test_front_end_is_refused(edge, tmp_path: Path):
    spec = find("mel_features")
    with pytest.raises(EdgeError, match="mel_features computes in FP64"):
        edge.write(spec, build_network(spec, Source()), tmp_path / "mel.mlpackage", pytest.fail)


def test_ensemble_is_refused_with_its_network(capsys):
    assert main(["coreml", "locate_pro", "--output", "x.mlpackage"]) == 1
    assert "convert its network, heimdall_net_pro" in capsys.readouterr().err


def test_missing_extra_is_named(monkeypatch, capsys):
    import rfserve.export

    monkeypatch.setitem(sys.modules, "coremltools", None)
    monkeypatch.delitem(sys.modules, "rfserve.export.edge", raising=False)
    monkeypatch.delattr(rfserve.export, "edge", raising=False)
    assert main(["coreml", "heimdall_net", "--output", "x.mlpackage"]) == 1
    assert "coremltools is not installed; `pip install 'rfserve[coreml]'`" in capsys.readouterr().err

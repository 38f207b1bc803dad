"""What a run starts from: timm's files, encoders, bundles, other sides; and what it says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from cxr_mtl.bundle import load_bundle
from cxr_mtl.config import ModelConfig
from cxr_mtl.engine.distributed import ranks
from cxr_mtl.errors import CheckpointError
from cxr_mtl.model.encoder import make_encoder
from cxr_mtl.model.multitask import MultiTaskModel, make_model
from cxr_mtl.train.start import start_from

SWIN = {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 4, "img_size": 64}
FAMILIES = ["test_convnext", "test_resnet", "test_efficientnet", "mobilenetv2_035", "densenet121"]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with ranks():
        yield


def study(names: tuple[str, ...], boxes: tuple[str, ...]) -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(ontology=SimpleNamespace(names=names)), box_findings=boxes)


def started(config: ModelConfig, names: tuple[str, ...] = ("a", "b"), boxes: tuple[str, ...] = ()) -> Any:
    torch.manual_seed(1)
    model = make_model(config, len(names), len(boxes), weights=config.weights)
    return model, start_from(model, config, study(names, boxes))


@pytest.mark.parametrize("name", FAMILIES)
def test_timms_own_file_fits_every_family(name: str, tmp_path: Path) -> None:
    """A coloured classifier of timm's: all but its head is taken, and grey is seen as three equal colours."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7).eval()
    for statistics in theirs.buffers():
        if statistics.is_floating_point():
            statistics.uniform_(0.5, 1.5)
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    config = ModelConfig(encoder=name, drop_path=0, weights=tmp_path / "timm.safetensors")
    model, start = started(config)
    assert start.encoder == start.of == len(model.encoder.net.state_dict())
    assert not start.missing
    assert start.encoder + len(start.unused) == len(theirs.state_dict())
    assert any("fc" in name or "classifier" in name for name in start.unused)
    grey = torch.randn(1, 1, 64, 64)
    mine = model.eval().encoder(grey)
    info = timm.models.FeatureInfo(theirs.feature_info, out_indices=range(len(theirs.feature_info)))
    last = [i for i, stride in enumerate(info.reduction()) if stride in (8, 16, 32)]
    expected = theirs.forward_intermediates(grey.repeat(1, 3, 1, 1), indices=last, intermediates_only=True)
    for one, other in zip(mine, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-3 * other.abs().max().item())


def test_the_report_is_a_line_and_a_file(tmp_path: Path) -> None:
    theirs = timm.create_model("test_resnet", num_classes=7)
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    model, start = started(ModelConfig(encoder="test_resnet", weights=tmp_path / "timm.safetensors"))
    count = len(model.encoder.net.state_dict())
    assert str(start) == (
        f"{count} of {count} encoder tensors and 0 of the heads' from timm.safetensors; "
        "in it but not used: fc.bias, fc.weight (2)"
    )
    start.save(tmp_path / "weights.json")
    assert '"fc.weight"' in (tmp_path / "weights.json").read_text()
    assert started(ModelConfig(encoder="test_resnet"))[1] is None


def test_a_count_of_batches_may_be_missing_and_no_weight(tmp_path: Path) -> None:
    tensors = make_encoder("test_resnet").net.state_dict()
    old = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    save_file(old, tmp_path / "old.safetensors")
    config = ModelConfig(encoder="test_resnet", weights=tmp_path / "old.safetensors")
    _, start = started(config)
    assert (start.encoder, start.of, len(start.missing)) == (len(old), len(tensors), len(tensors) - len(old))
    assert "; not in it: conv1.1.num_batches_tracked" in str(start)
    old.pop("layer3.0.conv1.weight")
    save_file(old, tmp_path / "old.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 1 of the encoder's weights \(first: layer3.0.conv1.weight\)"):
        started(config)


def bundle_of(folder: Path, tiny_bundle: Path) -> Path:
    """The tiny bundle with weights that no initialisation makes."""
    folder.mkdir()
    tensors = {
        name: torch.full_like(value, 3.0) for name, value in load_file(tiny_bundle / "weights.safetensors").items()
    }
    save_file(tensors, folder / "weights.safetensors")
    (folder / "bundle.yaml").write_text((tiny_bundle / "bundle.yaml").read_text())
    return folder


def taken(model: MultiTaskModel) -> set[str]:
    return {name for name, value in model.state_dict().items() if (value == 3).all()}


@pytest.mark.parametrize("named", ["", "weights.safetensors"])
def test_a_bundle_gives_encoder_and_heads(named: str, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    config = replace_weights(bundle.description.model, bundle_of(tmp_path / "b", tiny_bundle) / named)
    model, start = started(config, bundle.ontology.names, bundle.box_findings)
    assert taken(model) == set(model.state_dict())
    assert start.source == "the bundle tiny 0.1"
    assert not start.unused
    assert len(start.heads) == len([name for name in model.state_dict() if not name.startswith("encoder.")])


def test_heads_of_other_findings_are_left_though_they_would_fit(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    config = replace_weights(bundle.description.model, bundle_of(tmp_path / "b", tiny_bundle))
    turned = tuple(reversed(bundle.ontology.names))
    model, start = started(config, turned, tuple(reversed(bundle.box_findings)))
    left = set(model.state_dict()) - taken(model)
    assert left == set(start.unused)
    assert {name.split(".")[0] for name in left} == {"findings", "hierarchy", "boxes"}
    assert {name for name in left if name.startswith("boxes.")} == {"boxes.logits.weight", "boxes.logits.bias"}
    # Other shapes: a wider pyramid keeps what does not depend on it, which is nothing of the box head's weights.
    wider = config.model_copy(update={"fpn_channels": 24})
    model, start = started(wider, bundle.ontology.names, bundle.box_findings)
    assert "boxes.deltas.weight" in start.unused
    assert "boxes.deltas.bias" in start.heads


def replace_weights(config: ModelConfig, file: Path) -> ModelConfig:
    return config.model_copy(update={"weights": file})


@pytest.mark.parametrize(("name", "args"), [("test_convnext", {}), ("swin_tiny_patch4_window7_224", SWIN)])
def test_a_run_at_another_side_takes_the_weights(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    """From 64 to 96 px; Swin's last windows become 3 places wide, and timm resamples their tables."""
    torch.manual_seed(0)
    small = make_encoder(name, args)
    if args:  # a table that says how far down a place lies can be checked on any grid
        table = small.net.get_parameter("layers.3.blocks.0.attn.relative_position_bias_table")
        table.data = torch.arange(-1.0, 2.0).repeat_interleave(3)[:, None].repeat(1, 8)
    save_file(small.net.state_dict(), tmp_path / "encoder.safetensors")
    larger = args | {"img_size": 96} if args else {}
    for again in (args, larger):
        net = make_encoder(name, again, weights=tmp_path / "encoder.safetensors")
        assert [m.shape[-1] for m in net(torch.randn(1, 1, 96, 96))] == [12, 6, 3]
        resampled = {n for n, v in net.net.state_dict().items() if v.shape != small.net.state_dict()[n].shape}
        assert len(resampled) == (again == larger and bool(args))
        for key in resampled:
            rows = net.net.state_dict()[key][:, 0].reshape(5, 5)
            assert torch.allclose(rows, rows[:, :1].expand(5, 5), atol=1e-5)  # the same in every column
            assert torch.allclose(rows[:, 0], -rows[:, 0].flip(0), atol=1e-5)
            assert (rows[1:, 0] >= rows[:-1, 0]).all()
            assert rows[4, 0] >= 1
        for key, value in net.net.state_dict().items():
            if key not in resampled:
                assert torch.equal(value, small.net.state_dict()[key])


def test_weights_of_another_network_are_one_line(tmp_path: Path) -> None:
    save_file(make_encoder("test_resnet").net.state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks \d+ of the encoder's weights"):
        make_encoder("test_convnext", weights=tmp_path / "resnet.safetensors")
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "classifier.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit test_convnext: .*fc.weight"):
        make_encoder("test_convnext", weights=tmp_path / "classifier.safetensors")
    deep = make_encoder("swin_tiny_patch4_window7_224", SWIN | {"depths": [1, 1, 3, 1]})
    save_file(deep.net.state_dict(), tmp_path / "deep.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit swin_tiny_patch4_window7_224: \w"):
        make_encoder("swin_tiny_patch4_window7_224", SWIN, weights=tmp_path / "deep.safetensors")
    wide = make_encoder("test_convnext", {"dims": [32, 40, 48, 56]})
    save_file(wide.net.state_dict(), tmp_path / "wide.safetensors")
    with pytest.raises(CheckpointError, match="does not fit test_convnext: ") as caught:
        make_encoder("test_convnext", weights=tmp_path / "wide.safetensors")
    assert "\n" not in str(caught.value)


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="timm's weights of resnet18 could not be fetched") as caught:
        make_encoder("resnet18", pretrained=True)
    assert "\n" not in str(caught.value)
    assert "model.weights" in str(caught.value.hint)

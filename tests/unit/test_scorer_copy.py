"""SSCD's published weights become a folder that gives the same descriptors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from atelier.errors import BadInput, PolicyError
from pipelines.evaluate.scorers.copy_descriptor import CopyDescriptor
from pipelines.evaluate.scorers.files import located
from pipelines.evaluate.scorers.sscd_weights import convert
from tests.scorer_stand_ins import tiny_copy_scorer

BLOCKS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)
SIDE = 96  # pixels


class Block(nn.Module):
    """A bottleneck of ResNet-50 (He et al., 2015), with the stride on its second convolution."""

    def __init__(self, given: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(given, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        if stride != 1 or given != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(given, 4 * width, 1, stride=stride, bias=False),
                nn.BatchNorm2d(4 * width),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class Published(nn.Module):
    """SSCD's descriptor from plain layers; its state dict has the names of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
                "bn1": nn.BatchNorm2d(64),
                "fc": nn.Linear(2048, 512),
            }
        )
        given = 64
        for number, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), start=1):
            blocks = []
            for index in range(count):
                stride = 2 if index == 0 and number > 1 else 1
                blocks.append(Block(given, width, stride))
                given = 4 * width
            self.backbone[f"layer{number}"] = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        net = self.backbone
        x = net["bn1"](net["conv1"](x)).relu()
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        for number in range(1, 5):
            x = net[f"layer{number}"](x)
        pooled = x.flatten(2).clamp(min=1e-6).pow(3).mean(dim=2).pow(1 / 3)
        return nn.functional.normalize(net["fc"](pooled))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Published, Path]:
    torch.manual_seed(0)
    model = Published().eval()
    for name, buffer in model.named_buffers():  # as trained: not at their start
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    file = tmp_path_factory.mktemp("published") / "sscd_disc_mixup.torchvision.pt"
    torch.save(model.state_dict(), file)
    return model, file


def test_converted_weights_give_the_published_descriptors(
    published: tuple[Published, Path], tmp_path: Path
) -> None:
    model, file = published
    convert(file, tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    config = tmp_path / "copy" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"size": SIDE}))  # faster
    draw = np.random.default_rng(0)
    pixels = [draw.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(2)]
    source = located("copy", str(tmp_path / "copy"))
    found = CopyDescriptor(source, "cpu").features([Image.fromarray(one) for one in pixels])
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    with torch.inference_mode():
        expected = model((batch - mean[:, None, None]) / deviation[:, None, None])
    assert found.shape == (2, 512)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_other_files_are_refused_with_the_reason(
    published: tuple[Published, Path], tmp_path: Path
) -> None:
    model, file = published
    with pytest.raises(BadInput, match="exists already"):
        convert(file, tmp_path)
    with pytest.raises(BadInput, match="cannot be read"):
        convert(tmp_path / "none.pt", tmp_path / "copy")
    state = model.state_dict()
    for content, told in (
        ({**state, "backbone.fc.weight": torch.zeros(1024, 2048)}, r"1 weights .*\(fc\.weight\)"),
        ({"model": state}, "is not a plain state dict"),
        ([state], "is not a plain state dict"),
    ):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(BadInput, match=told):
            convert(tmp_path / "other.pt", tmp_path / "copy")
    (tmp_path / "other.pt").write_bytes(b"not a file of torch")
    with pytest.raises(BadInput, match="is not a plain state dict"):
        convert(tmp_path / "other.pt", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


class Harmful:
    """A pickle that runs code when it is read without care."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.file,)


def test_reading_a_published_file_runs_none_of_its_code(tmp_path: Path) -> None:
    torch.save({"backbone.conv1.weight": Harmful(tmp_path / "ran")}, tmp_path / "harmful.pt")
    with pytest.raises(BadInput, match="is not a plain state dict"):
        convert(tmp_path / "harmful.pt", tmp_path / "copy")
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_copy_detector_is_named_with_the_fix(tmp_path: Path) -> None:
    folder = Path(tiny_copy_scorer(tmp_path / "copy"))
    source = located("copy", str(folder))
    assert CopyDescriptor(source, "cpu").features([Image.new("RGB", (8, 8))]).shape == (1, 16)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layers": [1, 1, 1, 2]}))
    with pytest.raises(PolicyError, match=r"scorers\.copy: .* weights are missing"):
        CopyDescriptor(source, "cpu")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 16}))
    with pytest.raises(PolicyError, match=r"model_type: .*; convert SSCD's published weights"):
        CopyDescriptor(source, "cpu")

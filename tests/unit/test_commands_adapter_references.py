"""How adapters are named on the command line, and which package a name means."""

from pathlib import Path

import numpy as np
import pytest

from atelier.adapter.package import Package, write_package
from atelier.data.manifest import BaseRef
from atelier.data.names import hex_of
from atelier.data.release import Release, ReleaseFolder
from atelier.errors import AdapterRejected, BadInput
from atelier.home import Home
from commands.adapter_references import AdapterReference, resolve

BASE = BaseRef(id="models/none", digest="sha256:" + "0" * 64)
MODULE = "unet.mid_block.attentions.0.proj_in"


def package(folder: Path, name: str = "thor-cat") -> Package:
    tensors = {
        f"{MODULE}.lora_A.weight": np.ones((2, 4), np.float32),
        f"{MODULE}.lora_B.weight": np.ones((4, 2), np.float32),
    }
    return write_package(folder, tensors, name=name, base=BASE)


@pytest.mark.parametrize(
    ("text", "name", "version", "weight"),
    [
        ("thor-cat", "thor-cat", None, 1.0),
        ("thor-cat@2", "thor-cat", 2, 1.0),
        ("thor-cat=0.7", "thor-cat", None, 0.7),
        ("thor-cat@12=-1", "thor-cat", 12, -1.0),
    ],
)
def test_names(text: str, name: str, version: int | None, weight: float) -> None:
    ref = AdapterReference.parse(text)
    assert (ref.name, ref.version, ref.weight, ref.path) == (name, version, weight, None)


@pytest.mark.parametrize("text", ["./thor-cat", "runs/thor cat", "/tmp/x", "Thor_Cat"])
def test_what_is_no_name_is_a_folder(text: str) -> None:
    assert AdapterReference.parse(f"{text}=0.5") == AdapterReference(path=Path(text), weight=0.5)


def test_a_package_in_the_working_directory_wins_over_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path / "thor-cat")
    monkeypatch.chdir(tmp_path)
    assert AdapterReference.parse("thor-cat").path == Path("thor-cat")


def test_a_weight_that_is_no_number_is_bad_input() -> None:
    with pytest.raises(BadInput, match="weight after ="):
        AdapterReference.parse("thor-cat=much")


def test_a_folder_is_opened_and_verified(tmp_path: Path) -> None:
    made = package(tmp_path / "made")
    assert (
        resolve(AdapterReference.parse(str(made.path)), Home(tmp_path)).package.digest
        == made.digest
    )
    with pytest.raises(AdapterRejected):
        resolve(AdapterReference.parse(str(tmp_path / "none")), Home(tmp_path))


def test_what_serves_is_found_without_asking_the_registry(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    made = package(tmp_path / "made")
    kept = home.packages / hex_of(made.digest)
    kept.parent.mkdir(parents=True)
    made.path.rename(kept)
    release = Release(adapter="thor-cat", base=BASE.digest, version=3, digest=made.digest)
    ReleaseFolder(home.releases).put(release)
    for text in ("thor-cat", "thor-cat@3"):
        found = resolve(AdapterReference.parse(text), home)
        assert (found.version, found.package.digest) == (3, made.digest)
        assert found.label == "thor-cat 3"

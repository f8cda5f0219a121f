"""What is installed from a wheel: all that the program reads at run time, and the same locks."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("atelier", "commands", "pipelines", "services")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in the wheel as the images build it."""
    folder = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return set(zipfile.ZipFile(built).namelist())


def test_a_wheel_has_every_file_of_the_rooms(wheel: set[str]) -> None:
    """Policies, templates and Triton's model as well as modules."""
    listed = subprocess.run(
        ("git", "ls-files", "--", *ROOMS), cwd=ROOT, check=True, capture_output=True, text=True
    )
    tracked = {name for name in listed.stdout.split() if (ROOT / name).exists()}
    assert {"atelier/data/policy.yaml", "services/triton/atelier/config.pbtxt"} <= tracked
    assert tracked <= wheel


def test_a_wheel_has_nothing_else(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == set(ROOMS)


def pins(name: str) -> dict[str, str]:
    """`package ; marker` to version, of a lock file."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    found = re.findall(r"^([a-z0-9.-]+)==(\S+)( ; .*?)?(?: \\)?$", text, re.M)
    return {f"{package}{marker}": version for package, version, marker in found}


@pytest.mark.parametrize("whole", ["engine", "train", "serve", "dev"])
def test_images_share_their_layers_by_one_lock(whole: str) -> None:
    """torch.txt lies below engine.txt, and that below the others: no layer replaces another's."""
    layers = {"engine": ("torch",)}.get(whole, ("torch", "engine"))
    outer = {key.split(" ;")[0]: version for key, version in pins(whole).items()}
    for layer in layers:
        inner = {key.split(" ;")[0]: version for key, version in pins(layer).items()}
        assert inner.items() <= outer.items(), f"{layer}.txt is not of {whole}.txt: make lock"

"""Every command of the README works, word for word, in the checkout that the demo ran in."""

import re
import signal
import subprocess

import pytest

from atelier.data.recipe import Recipe
from services.triton.process import free_port
from tests.integration.checkout import ROOT, SECONDS, DemoRun

pytestmark = pytest.mark.timeout(SECONDS)


def blocks(kind: str) -> list[str]:
    """The fenced blocks of the README that are marked as `kind`."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)


def test_every_command_of_the_readme_works(demo_run: DemoRun) -> None:
    assert demo_run.code == 0
    port = str(free_port())
    script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\nset -x\n"
    script += "\n".join(blocks("sh")).replace("8080", port)
    shell = subprocess.Popen(
        ["bash", "-m", "-c", script],
        cwd=demo_run.checkout.root,
        env=demo_run.checkout.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        out, _ = shell.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        shell.send_signal(signal.SIGTERM)
        raise
    assert shell.returncode == 0, out[-4000:]
    pictures = ("cat.png", "beach.png", "space.png")
    for name in (*pictures, "compare/compare.html", "thor-cat.safetensors"):
        assert (demo_run.folder / name).stat().st_size > 0
    assert "registry: known" in out
    assert '"images":2' in out.replace(" ", "")


def test_the_readme_begins_with_targets_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"^    make (\S+)$", text, re.M)
    assert targets == ["demo", "test"], "`make demo` is test_demo's; `make test` is this run's"
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
    assert "-m commands.demo" in makefile and "tests/integration" in makefile


def test_no_command_of_the_readme_escapes_the_tests() -> None:
    kinds = set(re.findall(r"^```(\w*)", (ROOT / "README.md").read_text(), re.M)) - {""}
    assert kinds == {"sh", "mermaid", "yaml"}


def test_the_readmes_paths_exist_and_its_recipes_are_valid() -> None:
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"^\| `([\w/]+/)` \|", text, re.M):
        assert (ROOT / name).is_dir(), name
    for target in re.findall(r"\]\(([\w./]+)\)", text):
        assert (ROOT / target).exists(), target
    real = sorted((ROOT / "examples").glob("*/sdxl.yaml"))
    assert real
    for file in real:
        assert "stable-diffusion-xl" in Recipe.load(file).base.model

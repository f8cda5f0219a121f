"""A checkout of this project in which what is trained is tiny: the same sources, other weights.

Commands of the README and the demo run in it word for word, in seconds instead of minutes.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests.judged import tiny_scorers
from tests.tiny import tiny_base

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("atelier", "commands", "pipelines", "services")
RECIPES = ("recipe.yaml", "version-2.yaml")
MODEL = "models/miniature"
SECONDS = 1500  # a machine that trains at the same time is slow


@dataclass(frozen=True)
class Checkout:
    """Its folder, and what a shell in it needs."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        """Nothing of the test's own home; this checkout's sources before any installed ones."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("ATELIER_")}
        return {**env, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class DemoRun:
    """A demo that ran in a checkout where nobody watched, and has ended."""

    checkout: Checkout
    code: int
    out: str
    err: str

    @property
    def folder(self) -> Path:
        """What it left."""
        return self.checkout.root / "demo"


def run_demo(checkout: Checkout) -> DemoRun:
    """`make demo` without its set-up."""
    done = subprocess.run(
        [sys.executable, "-m", "commands.demo"],
        cwd=checkout.root,
        env=checkout.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return DemoRun(checkout, done.returncode, done.stdout, done.stderr)


def make_checkout(root: Path) -> Checkout:
    """Copy the sources, put a tiny base and tiny recipes in their places."""
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    base = tiny_base(root / MODEL)
    tiny_scorers(root / MODEL / "scorers", base / "tokenizer")
    _loosen(root / "atelier" / "data" / "policy.yaml")
    shutil.copytree(ROOT / "examples" / "thor-cat", root / "examples" / "thor-cat")
    for name in RECIPES:
        _shrink(root / "examples" / "thor-cat" / name)
    _draw(root / "examples" / "thor-cat" / "images")
    script = root / ".venv" / "bin" / "atelier"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!{sys.executable}\nfrom commands.main import main\n\nmain()\n")
    script.chmod(0o755)
    return Checkout(root)


def _loosen(file: Path) -> None:
    """Random networks judge nothing: one gate is left, which every adapter passes clearly."""
    policy = yaml.safe_load(file.read_text())
    policy |= {"seeds": {"first": 2, "most": 2}, "steps": 2, "gates": {"effect": {"min": -9.0}}}
    policy["prompts"] = {name: prompts[:1] for name, prompts in policy["prompts"].items()}
    file.write_text(yaml.safe_dump(policy))


def _shrink(file: Path) -> None:
    """As little work as shows in the pictures; the two versions still differ, rank and steps."""
    recipe = yaml.safe_load(file.read_text())
    stage = recipe["stages"][0]
    stage["dataset"] = {"path": "images", "resolution": 64}
    stage["prior"]["images"] = 2
    rank, steps = stage["lora"]["rank"] // 4, stage["train"]["steps"] // 100
    stage["lora"] |= {"rank": rank, "alpha": rank}
    stage["train"] |= {"steps": steps, "batch": 2, "lr": 0.05, "warmup": 1}
    recipe.pop("validation", None)
    recipe["checkpoint"] = {"every": 2, "keep": 1}
    file.write_text(yaml.safe_dump(recipe))


def _draw(folder: Path) -> None:
    """Coloured blots in place of the committed pictures, at the tiny base's size."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        blots = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(blots).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.png")

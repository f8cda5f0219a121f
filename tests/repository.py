"""A real git repository with a few recipes and declarations, for tests of what a push asks for."""

import os
import subprocess
from pathlib import Path
from typing import Self

AUTHOR = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in {"NAME": "Test", "EMAIL": "test@example.org"}.items()
}
RECIPE = """\
adapter: {adapter}
base: {{model: {base}}}
stages:
  - method: text_to_image
    dataset: {{path: {pictures}}}
"""


class Scratch:
    """A checkout in which tests write and commit."""

    def __init__(self, root: Path):
        self.root = root

    @classmethod
    def make(cls, root: Path) -> Self:
        """A new one, on branch main, with nothing in it."""
        root.mkdir(parents=True)
        made = cls(root)
        made.git("init", "--quiet", "--initial-branch=main")
        return made

    @classmethod
    def clone(cls, origin: Path, root: Path) -> Self:
        """A clone."""
        made = cls(origin)
        made.git("clone", "--quiet", str(origin), str(root))
        return cls(root)

    def git(self, *words: str) -> str:
        """What git says; CalledProcessError where it fails."""
        done = subprocess.run(
            ["git", "-C", str(self.root), *words],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **AUTHOR, "GIT_CONFIG_GLOBAL": "/dev/null"},
        )
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        """A file of the working tree."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def recipe(
        self, folder: str, adapter: str, pictures: str = "images", base: str = "models/miniature"
    ) -> None:
        """`adapters/<folder>/recipe.yaml`, and a picture beside it."""
        text = RECIPE.format(adapter=adapter, pictures=pictures, base=base)
        self.write(f"adapters/{folder}/recipe.yaml", text)
        self.write(f"adapters/{folder}/images/01.png", f"picture of {adapter}")

    def declare(self, environment: str, adapter: str, text: str = "version: 1\n") -> str:
        """An adapter's declaration; its path."""
        path = f"k8s/environments/{environment}/adapters/{adapter}.yaml"
        self.write(path, text)
        return path

    def commit(self, message: str = "change") -> str:
        """Everything as it is now; the commit's hash."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

"""The repository that a command works in: what its commits hold, and new ones for its branches.

New commits are made beside the working tree and its index, which stay as they are.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Self

from atelier.errors import BadInput, Refused, Unavailable

REMOTE = "origin"
PUSHES = 5  # tries, where others push to the same branch
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_BOT = ("github-actions[bot]", "41898282+github-actions[bot]@users.noreply.github.com")


class GitError(BadInput):
    """What git was asked for is not there, or cannot be done."""


class Repository:
    """A checkout, by its root."""

    def __init__(self, root: Path):
        self.root = root

    @classmethod
    def find(cls, place: Path | None = None) -> Self:
        """The checkout around a folder, by default the working directory."""
        place = place or Path()
        return cls(Path(cls(place)._said("rev-parse", "--show-toplevel")))

    def commit(self, revision: str) -> str | None:
        """The commit that is meant; None for a full hash that is not here, GitError for a name."""
        asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        done = self._run(*asked)
        if done.returncode == 0:
            return done.stdout.decode().strip()
        if _COMMIT.fullmatch(revision):
            return None
        raise GitError(f"{revision}: is no commit of {self.root}")

    def files(self, commit: str, *folders: str) -> tuple[str, ...]:
        """The paths of a commit's files, of these folders alone if there are any."""
        return self._names("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit, *folders)

    def touched(self, since: str, until: str) -> tuple[str, ...]:
        """The paths that differ between two commits; a renamed file is its old and its new one."""
        return self._names("diff-tree", "-r", "-z", "--name-only", "--no-renames", since, until)

    def read(self, commit: str, path: str) -> bytes | None:
        """A file as a commit has it, or None."""
        done = self._run("cat-file", "blob", f"{commit}:{path}")
        return done.stdout if done.returncode == 0 else None

    def edited(self, folder: str) -> dict[str, bytes | None]:
        """What a folder's files hold where they are not as HEAD has them; None: removed."""
        paths = {
            *self._names("diff", "--name-only", "-z", "--no-renames", "HEAD", "--", folder),
            *self._names("ls-files", "-z", "--others", "--exclude-standard", "--", folder),
        }
        files = {path: self.root / path for path in sorted(paths)}
        return {path: file.read_bytes() if file.is_file() else None for path, file in files.items()}

    def fetch(self, branch: str) -> str:
        """The newest commit of a branch of `origin`."""
        self._remote("fetch", "--quiet", "--no-tags", REMOTE, f"refs/heads/{branch}")
        return self._said("rev-parse", "FETCH_HEAD")

    def commit_of(self, files: Mapping[str, bytes | None], message: str, onto: str) -> str:
        """A new commit on top of another, in which these files are so; None: not there."""
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
            self._said("read-tree", onto, env=index)
            for path, data in files.items():
                if data is None:
                    self._said("update-index", "--force-remove", "--", path, env=index)
                else:
                    blob = self._said("hash-object", "-w", "--stdin", data=data)
                    entry = f"100644,{blob},{PurePosixPath(path)}"
                    self._said("update-index", "--add", "--cacheinfo", entry, env=index)
            tree = self._said("write-tree", env=index)
        made = ("commit-tree", tree, "-p", onto, "-F", "-")
        return self._said(*made, data=message.encode(), env=self._author())

    def push(self, commit: str, branch: str, *, force: bool = False) -> None:
        """Make a commit the branch of `origin`; `force`: whatever was there.

        Refused where the branch has moved on or is protected.
        """
        forced = ("--force",) if force else ()
        self._remote("push", "--quiet", *forced, REMOTE, f"{commit}:refs/heads/{branch}")

    def record(self, files: Mapping[str, bytes | None], message: str, branch: str) -> str:
        """Commit files to a branch of `origin`, on top of whatever others push meanwhile.

        GitError where one of them was changed there since HEAD, Refused where the branch is
        protected.
        """
        for tries_left in reversed(range(PUSHES)):
            tip = self.fetch(branch)
            if all(self.read(tip, path) == data for path, data in files.items()):
                return tip  # it is so already
            self._refuse_changed(tip, branch, files)
            made = self.commit_of(files, message, tip)
            try:
                self.push(made, branch)
            except Refused:
                if not tries_left or self.fetch(branch) == tip:
                    raise
            else:
                return made
        raise AssertionError("unreachable")

    def _refuse_changed(self, tip: str, branch: str, files: Mapping[str, bytes | None]) -> None:
        for path in files:
            if self.read(tip, path) != self.read("HEAD", path):
                raise GitError(
                    f"{path}: was changed on {branch} meanwhile; "
                    "fetch it, see what is still wanted, and run this again"
                )

    def _author(self) -> dict[str, str]:
        """The user whom git knows, else Actions itself."""
        if self._run("config", "user.email").returncode == 0:
            return {}
        name, email = _BOT
        roles = ("AUTHOR", "COMMITTER")
        return {f"GIT_{role}_NAME": name for role in roles} | {
            f"GIT_{role}_EMAIL": email for role in roles
        }

    def _names(self, *words: str) -> tuple[str, ...]:
        listed = self._checked(*words).decode(errors="surrogateescape")
        return tuple(name for name in listed.split("\0") if name)

    def _said(self, *words: str, data: bytes = b"", env: Mapping[str, str] | None = None) -> str:
        return self._checked(*words, data=data, env=env).decode().strip()

    def _checked(
        self, *words: str, data: bytes = b"", env: Mapping[str, str] | None = None
    ) -> bytes:
        done = self._run(*words, data=data, env=env)
        if done.returncode:
            raise GitError(f"git {words[0]}: {_last_line(done.stderr)}")
        return done.stdout

    def _remote(self, *words: str) -> None:
        done = self._run(*words)
        if done.returncode == 0:
            return
        said = done.stderr.decode(errors="replace").strip()
        if "[rejected]" in said or "[remote rejected]" in said:
            raise Refused(f"git {words[0]}: {_rejection(said)}")
        raise Unavailable(f"git {words[0]}: {_last_line(done.stderr)}", retry_after=10)

    def _run(
        self, *words: str, data: bytes = b"", env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        quiet = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
        try:
            return subprocess.run(
                ["git", "-C", str(self.root), *words],
                input=data,
                env={**os.environ, **quiet, **(env or {})},
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            raise GitError("git is not installed") from None


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"


def _rejection(said: str) -> str:
    return next(line.strip(" !") for line in said.splitlines() if "rejected]" in line)

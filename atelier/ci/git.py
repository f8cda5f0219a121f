"""The git repository of a command: reading commits, and writing new ones to branches of `origin`.

New commits do not use the working tree and its index, which stay unchanged.
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
PUSHES = 5  # attempts, if others push to the same branch
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_BOT = ("github-actions[bot]", "41898282+github-actions[bot]@users.noreply.github.com")


class GitError(BadInput):
    """A git object is missing, or a git command failed."""


class Repository:
    """A checkout, given by its root."""

    def __init__(self, root: Path):
        self.root = root

    @classmethod
    def find(cls, place: Path | None = None) -> Self:
        """Return the checkout that contains a folder, by default the working directory."""
        place = place or Path()
        return cls(Path(cls(place)._output("rev-parse", "--show-toplevel")))

    def commit(self, revision: str) -> str | None:
        """Return the commit of a revision, or None for a full hash that is not in the repository.

        Raises GitError for an unknown name.
        """
        command = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        done = self._run(*command)
        if done.returncode == 0:
            return done.stdout.decode().strip()
        if _COMMIT.fullmatch(revision):
            return None
        raise GitError(f"{revision}: is not a commit of {self.root}; check the name, or fetch it")

    def files(self, commit: str, *folders: str) -> tuple[str, ...]:
        """Return the paths of a commit's files, only those in `folders` if given."""
        return self._names("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit, *folders)

    def touched(self, since: str, until: str) -> tuple[str, ...]:
        """Return the paths that differ between two commits, both the old and new of a rename."""
        return self._names("diff-tree", "-r", "-z", "--name-only", "--no-renames", since, until)

    def read(self, commit: str, path: str) -> bytes | None:
        """Return a file's content in a commit, or None if the commit has no such file."""
        done = self._run("cat-file", "blob", f"{commit}:{path}")
        return done.stdout if done.returncode == 0 else None

    def edited(self, folder: str) -> dict[str, bytes | None]:
        """Return the files of a folder that differ from HEAD, with their content; None: removed."""
        paths = {
            *self._names("diff", "--name-only", "-z", "--no-renames", "HEAD", "--", folder),
            *self._names("ls-files", "-z", "--others", "--exclude-standard", "--", folder),
        }
        files = {path: self.root / path for path in sorted(paths)}
        return {path: file.read_bytes() if file.is_file() else None for path, file in files.items()}

    def fetch(self, branch: str) -> str:
        """Fetch a branch of `origin`; return its newest commit. Raises Unavailable."""
        self._remote("fetch", "--quiet", "--no-tags", REMOTE, f"refs/heads/{branch}")
        return self._output("rev-parse", "FETCH_HEAD")

    def commit_of(self, files: Mapping[str, bytes | None], message: str, onto: str) -> str:
        """Create a commit on top of `onto` with these files; None removes one. Return its hash."""
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
            self._output("read-tree", onto, env=index)
            for path, data in files.items():
                if data is None:
                    self._output("update-index", "--force-remove", "--", path, env=index)
                else:
                    blob = self._output("hash-object", "-w", "--stdin", data=data)
                    entry = f"100644,{blob},{PurePosixPath(path)}"
                    self._output("update-index", "--add", "--cacheinfo", entry, env=index)
            tree = self._output("write-tree", env=index)
        command = ("commit-tree", tree, "-p", onto, "-F", "-")
        return self._output(*command, data=message.encode(), env=self._author())

    def push(self, commit: str, branch: str, *, force: bool = False) -> None:
        """Push a commit to a branch of `origin`; `force` replaces any other commit.

        Raises Refused if the branch has other commits or is protected, Unavailable if `origin`
        cannot be reached.
        """
        forced = ("--force",) if force else ()
        self._remote("push", "--quiet", *forced, REMOTE, f"{commit}:refs/heads/{branch}")

    def record(self, files: Mapping[str, bytes | None], message: str, branch: str) -> str:
        """Commit files to a branch of `origin`, on top of concurrent pushes; return the commit.

        Raises GitError if one of the files has changed on the branch since HEAD, Refused if the
        branch is protected, Unavailable if `origin` cannot be reached.
        """
        for tries_left in reversed(range(PUSHES)):
            tip = self.fetch(branch)
            if all(self.read(tip, path) == data for path, data in files.items()):
                return tip  # nothing to change
            self._refuse_changed(tip, branch, files)
            commit = self.commit_of(files, message, tip)
            try:
                self.push(commit, branch)
            except Refused:
                if not tries_left or self.fetch(branch) == tip:
                    raise
            else:
                return commit
        raise AssertionError("unreachable")

    def _refuse_changed(self, tip: str, branch: str, files: Mapping[str, bytes | None]) -> None:
        for path in files:
            if self.read(tip, path) != self.read("HEAD", path):
                raise GitError(
                    f"{path}: was changed on {branch} meanwhile; "
                    "fetch the branch, check the changes that are still needed, and run this again"
                )

    def _author(self) -> dict[str, str]:
        """Return the environment of the author: git's configured user, else the bot of Actions."""
        if self._run("config", "user.email").returncode == 0:
            return {}
        name, email = _BOT
        roles = ("AUTHOR", "COMMITTER")
        return {f"GIT_{role}_NAME": name for role in roles} | {
            f"GIT_{role}_EMAIL": email for role in roles
        }

    def _names(self, *arguments: str) -> tuple[str, ...]:
        listed = self._checked(*arguments).decode(errors="surrogateescape")
        return tuple(name for name in listed.split("\0") if name)

    def _output(
        self, *arguments: str, data: bytes = b"", env: Mapping[str, str] | None = None
    ) -> str:
        return self._checked(*arguments, data=data, env=env).decode().strip()

    def _checked(
        self, *arguments: str, data: bytes = b"", env: Mapping[str, str] | None = None
    ) -> bytes:
        done = self._run(*arguments, data=data, env=env)
        if done.returncode:
            raise GitError(f"git {arguments[0]}: {_last_line(done.stderr)}")
        return done.stdout

    def _remote(self, *arguments: str) -> None:
        done = self._run(*arguments)
        if done.returncode == 0:
            return
        stderr = done.stderr.decode(errors="replace").strip()
        if "[rejected]" in stderr or "[remote rejected]" in stderr:
            raise Refused(f"git {arguments[0]}: {_rejection(stderr)}")
        raise Unavailable(f"git {arguments[0]}: {_last_line(done.stderr)}", retry_after=10)

    def _run(
        self, *arguments: str, data: bytes = b"", env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        quiet = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
        try:
            return subprocess.run(
                ["git", "-C", str(self.root), *arguments],
                input=data,
                env={**os.environ, **quiet, **(env or {})},
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            raise GitError("git: is not installed; install it") from None


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"


def _rejection(stderr: str) -> str:
    return next(line.strip(" !") for line in stderr.splitlines() if "rejected]" in line)

"""Files are whole or absent, and digests depend on content alone."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier import files

WORDS = st.text("ab {}é", max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
ROOT = Path(__file__).parents[2]  # where a child process finds the program


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_write_makes_folders_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.json"
    files.write_atomic(target, "grün")
    files.write_atomic(target, b"second")
    assert target.read_bytes() == b"second"
    assert names(target.parent) == ["b.json"]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    """A full disk, by the file size limit of a process of its own."""
    target = tmp_path / "kept"
    files.write_atomic(target, b"old")
    script = (
        "import resource, signal, sys, pathlib\n"
        "from atelier.files import write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_atomic(pathlib.Path(sys.argv[1]), b'x' * 10_000)\n"
    )
    command = [sys.executable, "-c", script, str(target)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT)
    assert b"OSError" in done.stderr
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["kept"]


def test_replace_folder_publishes_and_removes_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "final"
    for content in ("one", "two"):
        aside = tmp_path / "aside"
        (aside / "deep").mkdir(parents=True)
        (aside / "deep" / content).write_text(content)
        files.replace_folder(aside, final)
    assert names(final / "deep") == ["two"]
    assert names(tmp_path) == ["final"]


def test_digests_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    expected = f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
    assert files.sha256_file(tmp_path / "file") == expected == files.sha256_bytes(b"abc")


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(WORDS, JSON, max_size=6), st.randoms(use_true_random=False))
def test_json_digest_ignores_the_order_of_keys(value: dict[str, object], chance: Random) -> None:
    items = list(value.items())
    chance.shuffle(items)
    assert files.digest_json(dict(items)) == files.digest_json(value)


def test_json_digest_sees_every_change() -> None:
    seen = [{"a": 1}, {"a": 1.5}, {"a": "1"}, {"b": 1}, {"a": [1]}, {"a": None}, {}, [], "a"]
    assert len({files.digest_json(value) for value in seen}) == len(seen)
    with pytest.raises(ValueError, match="JSON compliant"):
        files.digest_json(float("nan"))


def test_folder_digest_covers_names_and_contents_not_the_place(tmp_path: Path) -> None:
    for root in ("x", "y"):
        (tmp_path / root / "sub").mkdir(parents=True)
        (tmp_path / root / "sub" / "a.txt").write_text("1")
        (tmp_path / root / "b.bin").write_text("2")
    x, y = tmp_path / "x", tmp_path / "y"
    whole = files.digest_folder(x)
    assert whole == files.digest_folder(y)
    (y / "b.bin").rename(y / "c.bin")
    assert files.digest_folder(y) != whole
    assert files.digest_folder(y, ["**/*.txt"]) == files.digest_folder(x, ["**/*.txt"])
    (y / "sub" / "a.txt").write_text("changed")
    assert files.digest_folder(y, ["**/*.txt"]) != files.digest_folder(x, ["**/*.txt"])


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """A reader polls while another process writes alternating contents."""
    target = tmp_path / "shared.json"
    contents = [b"a" * 200_000, b"b" * 300_000]
    files.write_atomic(target, contents[0])
    script = (
        "import sys, pathlib\nfrom atelier.files import write_atomic\n"
        "for turn in range(40):\n"
        "    data = [b'a' * 200_000, b'b' * 300_000][turn % 2]\n"
        "    write_atomic(pathlib.Path(sys.argv[1]), data)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(target)], cwd=ROOT)
    reads = 0
    while writer.poll() is None:
        assert target.read_bytes() in contents
        reads += 1
    assert writer.returncode == 0
    assert reads > 0
    assert os.listdir(tmp_path) == ["shared.json"]  # noqa: PTH208 (hidden files as well)


HOLDER = (
    "import sys, time, pathlib\n"
    "from atelier.files import locked\n"
    "with locked(pathlib.Path(sys.argv[1]), shared=sys.argv[2] == 'shared'):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.mark.parametrize("kind", ["alone", "shared"])
def test_a_lock_is_refused_while_another_process_lives_that_holds_it(
    tmp_path: Path, kind: str
) -> None:
    lock = tmp_path / "deep" / "lock"
    busy = RuntimeError("it is held")
    command = [sys.executable, "-c", HOLDER, str(lock), kind]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RuntimeError, match="it is held"), files.locked(lock, busy=busy):
            pass
        if kind == "shared":
            with files.locked(lock, busy=busy, shared=True):
                pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    with files.locked(lock, busy=busy):
        pass


def test_what_goes_wrong_inside_a_lock_is_not_taken_for_a_busy_one(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), files.locked(tmp_path / "lock", busy=ValueError()):
        raise BlockingIOError
    with files.locked(tmp_path / "lock", busy=ValueError()):
        pass

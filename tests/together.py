"""Two real processes that do the same thing at the same moment."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]  # where a child process finds the program
# A script calls `start()` once it is prepared: then both go on.
_START = """
import sys

def start():
    print("ready", flush=True)
    sys.stdin.readline()

"""


def together(script: str, place: Path, names: tuple[str, str] = ("red", "blue")) -> list[str]:
    """Run a script twice at once, with `place` and a name as arguments; what each printed.

    Both have to end well.
    """
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _START + script, str(place), name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    try:
        for one in running:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n", one.communicate()[1]
        for one in running:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        ended = [one.communicate() for one in running]
    finally:
        for one in running:
            one.kill()
            one.communicate()
    assert [one.returncode for one in running] == [0, 0], "\n".join(err for _, err in ended)
    return [out for out, _ in ended]

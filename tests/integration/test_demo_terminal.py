"""How the demo ends at a terminal: the gateway stays, its curl line works, Ctrl-C ends it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

from services.gateway.keys import KeyStore
from tests.integration.conftest import TwoVersions
from tests.integration.stack import ROOT, ServedStack

SHOW = "import sys; from commands.demo.__main__ import _show; _show(*sys.argv[1:])"


def test_the_printed_line_makes_a_picture_and_ctrl_c_ends_it(
    stack: ServedStack, thor: TwoVersions, tmp_path: Path
) -> None:
    stack.release(thor.name, thor.pins[0])
    key, _ = KeyStore(f"sqlite:///{stack.home.root / 'gateway.db'}").create("demo")
    shown = subprocess.Popen(
        [sys.executable, "-c", SHOW, stack.addresses["gateway"], key, thor.name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shown.stdout is not None
    try:
        said = ""
        while "Press Ctrl-C to stop it." not in said:
            line = shown.stdout.readline()
            assert line, f"it ended by itself after saying {said!r}"
            said += line
        (command,) = re.findall(r"curl .*?\}'", said, re.S)
        curl = command.replace("curl ", "curl --fail --retry 30 --retry-all-errors ")
        subprocess.run(["bash", "-c", curl], cwd=tmp_path, check=True, timeout=300)
        assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")
        shown.send_signal(signal.SIGINT)
        assert shown.wait(60) == 0
    finally:
        shown.kill()
        shown.wait()

"""`make charts-push`: the charts, as OCI artifacts in a real registry."""

import os
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.triton.process import free_port
from tests.charts.cases import ROOT
from tests.charts.helm import CACHE, Helm, program
from tests.cluster.local.images import DIRECT

CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "{address}"}}
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """`host:port` of a registry by plain HTTP."""
    address = f"127.0.0.1:{free_port()}"
    config = tmp_path / "config.yml"
    config.write_text(CONFIG.format(folder=tmp_path / "blobs", address=address))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [program("registry"), "serve", str(config)], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                DIRECT.open(f"http://{address}/v2/", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def test_both_charts_are_pushed_with_the_tags_version(
    helm: Helm, registry: str, tmp_path: Path
) -> None:
    push = ("make", "charts-push", f"REGISTRY={registry}/Owner/Name", "VERSION=v1.2.3")
    subprocess.run(
        [*push, "HELM_PUSH=--plain-http", f"TOOL={CACHE / 'bin'}"],
        cwd=ROOT,
        check=True,
        env={**os.environ, "HELM_CONFIG_HOME": str(tmp_path / "helm")},
        timeout=120,
    )
    for name in ("atelier", "adapter"):
        place = f"oci://{registry}/owner/name/charts/{name}"
        shown = helm("show", "chart", place, "--version", "1.2.3", "--plain-http")
        assert {"version: 1.2.3", "appVersion: 1.2.3", f"name: {name}"} <= set(shown.splitlines())


def test_a_push_that_fails_says_so(registry: str) -> None:
    program("helm")
    push = ("make", "charts-push", "REGISTRY=127.0.0.1:9/x", "VERSION=v1.2.3")
    done = subprocess.run(
        [*push, "HELM_PUSH=--plain-http", f"TOOL={CACHE / 'bin'}"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode != 0

"""KServe's own controller and webhooks beside an API server, as plain processes on loopback.

No kubelet: what comes out are the objects that KServe makes of an InferenceService, and the pods
that its webhook changes, which is what our charts have to get right.
"""

import base64
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import yaml

from services.triton.process import free_port, spawn, tail
from tests.charts.helm import Helm, Object
from tests.cluster.apiserver import ApiServer, until
from tests.cluster.local.addons import KSERVE_VALUES
from tests.cluster.local.tools import chart, program

NAMESPACE = "kserve"
START_SECONDS = 60.0
CHARTS = ("kserve-crd", "kserve-resources")


def missing() -> str:
    """What is not on this machine, for a test that is skipped; empty where all is."""
    there = program("kserve-controller").exists() and all(chart(name).exists() for name in CHARTS)
    return "" if there else "no KServe: `make cluster-tools` builds it"


class KServe:
    """The controller of one API server, and what it says of InferenceServices and their pods."""

    def __init__(self, server: ApiServer, kubeconfig: Path, helm: Helm, folder: Path):
        self._server, self._kubeconfig, self._helm, self._folder = server, kubeconfig, helm, folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, apply: Callable[[list[Object]], object]) -> None:
        """Start it; its custom resources are there already."""
        values = self._folder / "values.yaml"
        values.write_text(yaml.safe_dump(KSERVE_VALUES))
        words = ("template", "kserve", chart("kserve-resources"), "--namespace", NAMESPACE)
        text = self._helm(*words, "--values", values)
        objects = [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]
        self._server.namespace(NAMESPACE)
        settings = [one for one in objects if one["kind"] == "ConfigMap"]
        for one in settings:
            one["metadata"]["namespace"] = NAMESPACE
        apply(settings)
        port = free_port()
        self._run(port)
        webhooks = [one for one in objects if one["kind"].endswith("WebhookConfiguration")]
        for webhook in (webhook for one in webhooks for webhook in one["webhooks"]):
            path = webhook["clientConfig"]["service"]["path"]
            authority = base64.b64encode(self._certificate("crt")).decode()
            webhook["clientConfig"] = {
                "url": f"https://127.0.0.1:{port}{path}",
                "caBundle": authority,
            }
        apply(webhooks)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(60)

    def _run(self, port: int) -> None:
        place = self._folder / "k8s-webhook-server" / "serving-certs"  # in TMPDIR
        place.mkdir(parents=True)
        for kind in ("crt", "key"):
            (place / f"tls.{kind}").write_bytes(self._certificate(kind))
        health = free_port()
        log = self._folder / "kserve.log"
        self._process = spawn(
            [
                str(program("kserve-controller")),
                f"--kubeconfig={self._kubeconfig}",
                f"--webhook-port={port}",
                f"--health-probe-addr=127.0.0.1:{health}",
                f"--metrics-addr=127.0.0.1:{free_port()}",
                "--leader-elect=false",
            ],
            env={**os.environ, "POD_NAMESPACE": NAMESPACE, "TMPDIR": str(self._folder)},
            log=log,
            when_orphaned=signal.SIGKILL,
        )
        until(lambda: self._ready(health, log), START_SECONDS, lambda: tail(log, 20))

    def _ready(self, port: int, log: Path) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, tail(log, 20)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _certificate(self, kind: str) -> bytes:
        """The API server's own, which is for 127.0.0.1 too."""
        return (self._server.folder / "certificates" / f"apiserver.{kind}").read_bytes()

"""How Helm's words are read; what Helm does is shown on a cluster (tests/cluster/e2e)."""

import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atelier.errors import BadInput
from atelier.platform import ClusterAway
from atelier.platform.helm import Helm, HelmRefused

HISTORY = """[
 {"revision": 2, "updated": "2026-11-21T15:40:00.123456789Z", "status": "pending-upgrade",
  "chart": "adapter-0.1.0", "app_version": "0.1.0", "description": "Preparing upgrade"},
 {"revision": 1, "updated": "2026-11-21T14:40:00Z", "status": "deployed",
  "chart": "adapter-0.1.0", "app_version": "0.1.0", "description": "Install complete"}]"""


def helm(folder: Path, script: str) -> Helm:
    """A Helm that does what the script says; it is given a namespace and no cluster."""
    program = folder / "helm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    api: Any = SimpleNamespace(namespace="atelier-production")
    return Helm(api, program=str(program))


def test_a_history_is_read_oldest_first(tmp_path: Path) -> None:
    first, last = helm(tmp_path, f"cat <<'END'\n{HISTORY}\nEND").history("thor")
    assert (first.number, first.served, first.pending) == (1, True, False)
    assert (last.number, last.served, last.pending) == (2, False, True)


def test_no_release_is_no_history(tmp_path: Path) -> None:
    assert helm(tmp_path, "echo 'Error: release: not found' >&2; exit 1").history("thor") == ()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Error: Kubernetes cluster unreachable: Get https://10.0.0.1: EOF", ClusterAway),
        ("Error: dial tcp 10.0.0.1:443: connect: connection refused", ClusterAway),
        ("level=WARN msg=x\nError: UPGRADE FAILED: Job hook-thor failed", HelmRefused),
    ],
)
def test_an_error_is_one_line_and_says_whether_to_try_again(
    tmp_path: Path, said: str, kind: type[Exception]
) -> None:
    told = said.rpartition("Error: ")[2]
    with pytest.raises(kind) as caught:
        helm(tmp_path, f"echo '{said}' >&2; exit 1").rollback("thor", 1, "grey")
    assert str(caught.value) == f"helm rollback thor: {told}"


def test_a_machine_without_helm_is_told_so(tmp_path: Path) -> None:
    api: Any = SimpleNamespace(namespace="n")
    with pytest.raises(BadInput, match=r"install Helm 4, or set its path in ATELIER_HELM"):
        Helm(api, program=str(tmp_path / "none")).history("thor")


def test_whoever_is_stopped_stops_helm(tmp_path: Path) -> None:
    """Helm writes down that it was: a workflow that is cancelled leaves nothing pending."""
    slow = helm(tmp_path, f"trap 'touch {tmp_path}/told; exit 1' TERM; touch {tmp_path}/there; "
                          "while :; do sleep 0.05; done")  # fmt: skip

    main = threading.main_thread().ident or 0

    def interrupt() -> None:
        while not (tmp_path / "there").exists():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        slow.uninstall("thor")
    assert (tmp_path / "told").exists()


def test_values_reach_helm_by_its_standard_input(tmp_path: Path) -> None:
    helm(tmp_path, f'cat > {tmp_path}/values; echo "$@" > {tmp_path}/words').upgrade(
        "thor", "charts/adapter", {"version": 2, "vae": ""}, "x" * 300
    )
    assert (tmp_path / "values").read_text() == "version: 2\nvae: ''\n"
    words = (tmp_path / "words").read_text()
    assert words.startswith("--namespace atelier-production upgrade --install thor charts/adapter")
    assert f"--description {'x' * 256} " in words

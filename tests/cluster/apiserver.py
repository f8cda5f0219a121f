"""A real API server, and nothing else: kube-apiserver on etcd, both on loopback, in one folder.

It starts in seconds and needs no root, so what agents, gateways and hooks do with ConfigMaps,
Leases and watches is tested against the thing itself, its absence included.
"""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kubernetes import client

from atelier.errors import AtelierError
from atelier.platform import Api
from services.triton.process import free_port, spawn, tail
from tests.cluster.local.tools import program

ADMIN = "admin"
START_SECONDS = 120.0
CHARTS = Path(__file__).resolve().parents[2] / "charts"


def missing() -> str:
    """What is not on this machine, for a test that is skipped; empty where all is."""
    if shutil.which("etcd") is None:
        return "no etcd: install etcd-server"
    if not program("kube-apiserver").exists():
        return f"no {program('kube-apiserver')}: `make cluster-tools` builds it"
    return ""


class ApiServer:
    """etcd and kube-apiserver. Its users are tokens; `users` bind them to roles."""

    def __init__(self, folder: Path, *, authentication: Mapping[str, Any] | None = None):
        """`authentication` is an AuthenticationConfiguration: who is believed beside the tokens."""
        self.folder = folder
        self._authentication = authentication
        self.port = free_port()
        self._etcd_port, self._peer_port = free_port(), free_port()
        self._tokens = {ADMIN: secrets.token_hex(16)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self, *users: str) -> None:
        """Start both; `users` get tokens, which the API server reads only now."""
        self._tokens |= {user: secrets.token_hex(16) for user in users}
        lines = [
            f"{token},{user},{user},{'system:masters' if user == ADMIN else 'tests'}"
            for user, token in self._tokens.items()
        ]
        (self.folder / "tokens.csv").write_text("\n".join(lines))
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        (self.folder / "sa.key").write_bytes(key)
        peer = f"http://127.0.0.1:{self._peer_port}"
        self._spawn(
            "etcd",
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={self._etcd}",
            f"--advertise-client-urls={self._etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )
        self.start_server()

    def start_server(self) -> None:
        """Start kube-apiserver on the data that are there; returns once it answers."""
        folder = self.folder
        self._spawn(
            "kube-apiserver",
            str(program("kube-apiserver")),
            f"--etcd-servers={self._etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={folder / 'certificates'}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            f"--service-account-key-file={folder / 'sa.key'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.97.0.0/24",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--watch-cache=true",
            *self._more(),
        )
        until(self._answers, START_SECONDS, lambda: tail(folder / "kube-apiserver.log", 20))

    def _more(self) -> list[str]:
        if self._authentication is None:
            return []
        file = self.folder / "authentication.yaml"
        file.write_text(yaml.safe_dump(dict(self._authentication)))
        return [f"--authentication-config={file}"]

    def stop_server(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End kube-apiserver alone; etcd keeps the data."""
        self._end("kube-apiserver", how)

    def stop(self) -> None:
        """End both."""
        self._end("kube-apiserver", signal.SIGKILL)
        self._end("etcd", signal.SIGKILL)

    def api(self, namespace: str, user: str = ADMIN) -> Api:
        """A client, as that user."""
        configuration = client.Configuration()
        configuration.host = self.address
        configuration.ssl_ca_cert = str(self.certificate)
        configuration.api_key["authorization"] = f"Bearer {self._tokens[user]}"
        configuration.retries = False
        return Api(client.ApiClient(configuration), namespace)

    def kubeconfig(self, user: str) -> Path:
        """A file that makes a process that user."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {
                        "server": self.address,
                        "certificate-authority": str(self.certificate),
                    },
                }
            ],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path = self.folder / f"{user}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    def namespace(self, name: str) -> None:
        """Make a namespace."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.api(name).create("/api/v1/namespaces", body)

    def allow(self, namespace: str, user: str, rules: Sequence[Mapping[str, Any]]) -> None:
        """Give a user a role in a namespace."""
        api, group = self.api(namespace), "rbac.authorization.k8s.io"
        role = {"apiVersion": f"{group}/v1", "metadata": {"name": user}}
        path = f"/apis/{group}/v1/namespaces/{{namespace}}"
        api.create(f"{path}/roles", {**role, "kind": "Role", "rules": list(rules)})
        binding = {
            **role,
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": group, "kind": "Role", "name": user},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        }
        api.create(f"{path}/rolebindings", binding)

    @property
    def _etcd(self) -> str:
        return f"http://127.0.0.1:{self._etcd_port}"

    @property
    def certificate(self) -> Path:
        """Who signs for it."""
        return self.folder / "certificates" / "apiserver.crt"

    def _answers(self) -> bool:
        ended = self._processes["kube-apiserver"].poll()
        assert ended is None, tail(self.folder / "kube-apiserver.log", 20)
        try:
            self.api("default").get("/api/v1/namespaces", "default")
        except (AtelierError, OSError):  # its certificate is not there, it does not listen yet
            return False
        return True

    def _spawn(self, name: str, *command: str) -> None:
        log = self.folder / f"{name}.log"
        self._processes[name] = spawn(
            list(command), env=dict(os.environ), log=log, when_orphaned=signal.SIGKILL
        )

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(how)
            process.wait(60)


def chart_rules(part: str) -> list[dict[str, Any]]:
    """The rules of a Role in charts/atelier, which hold no template."""
    text = (CHARTS / "atelier" / "templates" / part / "role.yaml").read_text()
    found: list[dict[str, Any]] = yaml.safe_load(text[text.index("\nrules:") :])["rules"]
    return found


def until(
    condition: Callable[[], object],
    seconds: float = 30.0,
    told: Callable[[], str] = lambda: "",
) -> float:
    """How long it took; fails when it takes longer."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s {told()}"
        time.sleep(0.05)
    return time.monotonic() - began

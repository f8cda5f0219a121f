"""A served replica as a user starts it, and clients that ask it; for tests that need the real way.

Everything is the product's own: `atelier serve` with Triton, agent and gateway, MLflow in a
database, releases as files. Only the base and the adapters are tiny.
"""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from PIL import Image

from atelier.adapter.package import Package
from atelier.contract.replica import Replica, ReplicaFolder
from atelier.data.release import Pin, Release, ReleaseFolder
from atelier.home import Home
from atelier.stores.registry import Registry
from services.triton.process import alive, spawn, tail

Pixels = NDArray[np.uint8]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 420.0  # seconds: a machine that trains at the same time starts slowly


@dataclass(frozen=True)
class Picture:
    """What came back for one request."""

    pixels: Pixels  # [image, height, width, 3]
    info: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Of the one adapter that its answer names."""
        (only,) = self.info["adapters"]
        return str(only["digest"])


class ServedStack:
    """`atelier serve` on free ports, in a home of its own."""

    def __init__(
        self,
        root: Path,
        base: Path | str,
        *options: str,  # of `atelier serve`
        env: Mapping[str, str] | None = None,
    ):
        self.home = Home(root / "home")
        self._options = ("--base", str(base), *options)
        self.releases = ReleaseFolder(self.home.releases)
        self._log = root / "serve.log"
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.addresses: dict[str, Any] = {}

    @property
    def tracking_uri(self) -> str:
        """The registry of this home."""
        return f"sqlite:///{self.home.root / 'mlflow.db'}"

    @property
    def registry(self) -> Registry:
        """A client of it."""
        return Registry(self.tracking_uri)

    def start(self) -> None:
        """Returns once all three answer."""
        command = [sys.executable, "-m", "commands", "serve", *self._options]
        env = {
            **os.environ,
            **self._env,
            "ATELIER_HOME": str(self.home.root),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
        }
        env.pop("ATELIER_DATABASE_URL", None)
        self._process = spawn([*command, "--port", "0"], log=self._log, env=env, cwd=ROOT)
        try:
            self.wait_for((self.home.root / "serve.json").exists, "the stack to start", PATIENCE)
        except BaseException:
            self.stop()
            raise
        self.addresses = json.loads((self.home.root / "serve.json").read_text())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code of `atelier serve`."""
        process = self._process
        assert process is not None
        if process.poll() is None:
            process.send_signal(number)
        return process.wait(90)

    def said(self) -> str:
        """What `atelier serve` has printed so far."""
        return self._log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = 120.0) -> float:
        """How long it took; fails with the log's end if it does not come about, or serve ends."""
        began = time.monotonic()
        while not condition():
            ended = self._process is None or self._process.poll() is not None
            assert not ended, f"serve ended while waiting for {what}:\n{tail(self._log, 40)}"
            waited = time.monotonic() - began
            assert waited < seconds, f"no sign of {what} in {seconds} s:\n{tail(self._log, 40)}"
            time.sleep(0.02)
        return time.monotonic() - began

    # Who does what

    def pid_of(self, module: str) -> int:
        """The child of `atelier serve` that runs a module."""
        assert self._process is not None
        return _only(p for p in _children(self._process.pid) if f"-m\0{module}" in _cmdline(p))

    def tritonserver(self) -> int:
        """The real server's process."""
        return _only(_children(self.pid_of("services.triton")))

    def worker(self) -> int:
        """The process of the Python model, where the engine is."""
        return _only(
            p for p in _children(self.tritonserver()) if "triton_python_backend_stub" in _cmdline(p)
        )

    def processes(self) -> set[int]:
        """All of them."""
        assert self._process is not None
        found, todo = set[int](), [self._process.pid]
        while todo:
            pid = todo.pop()
            found.add(pid)
            todo += _children(pid)
        return {pid for pid in found if alive(pid)}

    # Releases

    def register(self, folder: Path) -> Pin:
        """A package's place in the registry."""
        package = Package.open(folder)
        version = self.registry.register(package, run_id=None)
        return Pin(version=version, digest=package.digest)

    def release(self, name: str, pin: Pin, *, wait: bool = True) -> None:
        """Serve that version from now on."""
        old = self.releases.get(name)
        base = self.report().base
        first = Release(adapter=name, base=base, version=pin.version, digest=pin.digest)
        if old is None or old.pin != pin:
            self.releases.put(old.with_version(pin, "test") if old else first)
        if wait:
            # the first release of all has the agent import MLflow's client
            self.wait_for(lambda: self.serves(name, pin), f"{name}@{pin.version}", PATIENCE)

    def rollback(self, name: str) -> None:
        """Serve what served before."""
        release = self.releases.get(name)
        assert release is not None
        self.releases.put(release.rolled_back())

    def serves(self, name: str, pin: Pin) -> bool:
        """Whether the engine holds it, and answers by it where no version is named."""
        held = self.report().holds(name, pin.digest)
        wanted = json.loads(self.home.wanted.read_text()) if self.home.wanted.exists() else {}
        default = {
            one["digest"]
            for one in wanted.get("adapters", ())
            if one["name"] == name and one["default"]
        }
        obeyed = self.report().generation == wanted.get("generation")
        return bool(held and held.state == "ready" and default == {pin.digest} and obeyed)

    def report(self) -> Replica:
        """What the replica says."""
        return ReplicaFolder(self.home.replicas).list()["local"]

    # Asking

    def http(self, **inputs: Any) -> Picture:
        """One picture by Triton's HTTP, with a connection of its own."""
        address = self.addresses["triton_http"].removeprefix("http://")
        client = tritonclient.http.InferenceServerClient(
            address, network_timeout=PATIENCE, connection_timeout=PATIENCE
        )
        try:
            return _picture(client.infer("atelier", v2_inputs(tritonclient.http, **inputs)))
        finally:
            client.close()

    def grpc_client(self) -> tritonclient.grpc.InferenceServerClient:
        """A gRPC client of Triton; close it."""
        return tritonclient.grpc.InferenceServerClient(self.addresses["triton_grpc"])

    def grpc(self, **inputs: Any) -> Picture:
        """One picture by Triton's gRPC, with a channel of its own."""
        with self.grpc_client() as client:
            given = v2_inputs(tritonclient.grpc, **inputs)
            return _picture(client.infer("atelier", given, client_timeout=PATIENCE))

    def gateway(self, key: str, **body: Any) -> Picture:
        """One picture by the gateway; urllib.error.HTTPError where it says no."""
        request = urllib.request.Request(
            f"{self.addresses['gateway']}/generate_image",
            data=json.dumps({"fill_trigger": False, **body}).encode(),
            headers={"X-API-Key": key, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            found = json.load(answer)
        decoded = [Image.open(io.BytesIO(base64.b64decode(i["png"]))) for i in found["images"]]
        return Picture(np.stack([np.asarray(image.convert("RGB")) for image in decoded]), found)

    def metrics(self) -> dict[str, float]:
        """Triton's metrics without labels' order: the line up to the value, and the value."""
        with urllib.request.urlopen(self.addresses["triton_metrics"], timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}


def v2_inputs(module: Any, **values: Any) -> list[Any]:
    """V2 inputs for a tritonclient module, by the names in lower case."""
    kinds = {"seed": ("INT64", np.int64), "guidance_scale": ("FP32", np.float32)}
    made = []
    for name, value in values.items():
        if name == "adapters":
            value = json.dumps(value)
        if isinstance(value, str):
            datatype, array = "BYTES", np.array([value.encode()], dtype=np.object_)
        else:
            datatype, kind = kinds.get(name, ("INT32", np.int32))
            array = np.array([value], dtype=kind)
        tensor = module.InferInput(name.upper(), [1], datatype)
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def _picture(result: Any) -> Picture:
    info = json.loads(result.as_numpy("INFO").reshape(-1)[0])
    return Picture(result.as_numpy("IMAGE").copy(), info)


def _children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(folder.name))
    return found


def _cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _only(pids: Any) -> int:
    (only,) = [pid for pid in pids if alive(pid)]
    return int(only)

"""Where a tritonserver comes from: the one in the nvidia-pytriton wheel, or one of the system.

The wheel carries the server, its Python backend and one stub for each Python version, but not in
the layout that the server looks for, nor with the libraries on its path: that is arranged here.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atelier.errors import BadInput
from atelier.files import replace_folder, staging

_INSTALL = "install lora-atelier[serve] on Linux, or name a tritonserver by ATELIER_TRITONSERVER"


@dataclass(frozen=True)
class Runtime:
    """A tritonserver that can be started."""

    executable: Path
    backends: Path | None  # None: the server's own default
    libraries: tuple[Path, ...] = ()

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` with what the server and the Python inside it need to find theirs."""
        source = Path(__file__).resolve().parents[2]  # holds `services`, installed or not
        return {
            **base,
            "LD_LIBRARY_PATH": _joined(self.libraries, base.get("LD_LIBRARY_PATH")),
            "PYTHONPATH": _joined((source,), base.get("PYTHONPATH")),
            # the embedded Python finds its environment by the first `python3` on the path
            "PATH": _joined((Path(sys.executable).parent,), base.get("PATH")),
            "PYTHONUNBUFFERED": "1",
        }


def find_runtime(folder: Path, *, executable: str | None = None) -> Runtime:
    """The named tritonserver (a path, or a name on PATH), else the wheel's, else one on PATH.

    `folder` receives the backends in the layout that the wheel's server looks for. Raises BadInput
    where there is none, or none for this Python and numpy.
    """
    if executable:
        found = shutil.which(executable)
        if found is None:
            raise BadInput(f"tritonserver {executable}: no such program; {_INSTALL}")
        return Runtime(Path(found), backends=None)
    wheel = importlib.util.find_spec("pytriton")
    if wheel is not None and wheel.origin:
        return _from_wheel(Path(wheel.origin).parent, folder)
    on_path = shutil.which("tritonserver")
    if on_path is None:
        raise BadInput(f"no tritonserver: {_INSTALL}")
    return Runtime(Path(on_path), backends=None)


def _from_wheel(package: Path, folder: Path) -> Runtime:
    numpy = importlib.metadata.version("numpy")
    if int(numpy.partition(".")[0]) >= 2:
        raise BadInput(
            f"numpy {numpy}: Triton's Python backend gives empty tensors with it; "
            "install 'numpy>=1.26,<2'"
        )
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    server = package / "tritonserver"
    stub = server / "python_backend_stubs" / minor / "triton_python_backend_stub"
    if not stub.exists():
        raise BadInput(
            f"nvidia-pytriton has no backend for Python {minor} ({stub}); use 3.11 or 3.12"
        )
    version = importlib.metadata.version("nvidia-pytriton")
    backends = folder / f"backends-{version}-py{minor}"
    wanted = {file.name: file for file in (server / "backends" / "python").iterdir()}
    _link_all(backends, {**wanted, stub.name: stub})
    libpython = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    libraries = (libpython, package.parent / "nvidia_pytriton.libs")
    return Runtime(server / "bin" / "tritonserver", backends, libraries)


def _link_all(backends: Path, files: Mapping[str, Path]) -> None:
    """Make `backends/python/` of links to `files`, unless it is just that."""
    inside = backends / "python"
    if inside.is_dir() and {link.name: link.resolve() for link in inside.iterdir()} == {
        name: file.resolve() for name, file in files.items()
    }:
        return
    with staging(backends) as aside:
        (aside / "python").mkdir()
        for name, file in files.items():
            (aside / "python" / name).symlink_to(file)
        replace_folder(aside, backends)


def _joined(first: tuple[Path, ...], rest: str | None) -> str:
    return os.pathsep.join([*map(str, first), *([rest] if rest else [])])

"""Find a tritonserver: the server in the nvidia-pytriton wheel, or an installed server.

The wheel contains the server, its Python backend and one stub per Python version, but not in the
folder layout that the server requires. Its libraries are not on the library path. This module
creates the layout and the environment.
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

_INSTALL = "install lora-atelier[serve] on Linux, or set ATELIER_TRITONSERVER to a tritonserver"


@dataclass(frozen=True)
class Runtime:
    """A tritonserver with its backends and the libraries that it needs."""

    executable: Path
    backends: Path | None  # None: the default of the server
    libraries: tuple[Path, ...] = ()

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return `base` with the paths of the server's libraries and of its embedded Python."""
        # contains `services`, in a checkout or a wheel
        source = Path(__file__).resolve().parents[2]
        return {
            **base,
            "LD_LIBRARY_PATH": _joined(self.libraries, base.get("LD_LIBRARY_PATH")),
            "PYTHONPATH": _joined((source,), base.get("PYTHONPATH")),
            # The embedded Python derives its prefix from the first `python3` on the path.
            "PATH": _joined((Path(sys.executable).parent,), base.get("PATH")),
            "PYTHONUNBUFFERED": "1",
        }


def find_runtime(folder: Path, *, executable: str | None = None) -> Runtime:
    """Find `executable`, a path or a name on PATH.

    Without `executable`, find the server in the wheel, or else `tritonserver` on PATH. The backends
    for the server in the wheel are linked into `folder` in the layout that it requires. Raises
    BadInput if there is no tritonserver, or if the server in the wheel does not support this
    version of Python or numpy.
    """
    if executable:
        program = shutil.which(executable)
        if program is None:
            raise BadInput(f"tritonserver {executable}: no such program; {_INSTALL}")
        return Runtime(Path(program), backends=None)
    wheel = importlib.util.find_spec("pytriton")
    if wheel is not None and wheel.origin:
        return _from_wheel(Path(wheel.origin).parent, folder)
    on_path = shutil.which("tritonserver")
    if on_path is None:
        raise BadInput(f"tritonserver: not found; {_INSTALL}")
    return Runtime(Path(on_path), backends=None)


def _from_wheel(package: Path, folder: Path) -> Runtime:
    numpy = importlib.metadata.version("numpy")
    if int(numpy.partition(".")[0]) >= 2:
        raise BadInput(
            f"numpy {numpy}: Triton's Python backend passes empty tensors with this version; "
            "install 'numpy>=1.26,<2'"
        )
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    server = package / "tritonserver"
    stub = server / "python_backend_stubs" / minor / "triton_python_backend_stub"
    if not stub.exists():
        raise BadInput(
            f"nvidia-pytriton: has no backend for Python {minor} ({stub} is missing); use "
            "Python 3.11 or 3.12"
        )
    version = importlib.metadata.version("nvidia-pytriton")
    backends = folder / f"backends-{version}-py{minor}"
    files = {file.name: file for file in (server / "backends" / "python").iterdir()}
    _link_all(backends, {**files, stub.name: stub})
    libpython = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    libraries = (libpython, package.parent / "nvidia_pytriton.libs")
    return Runtime(server / "bin" / "tritonserver", backends, libraries)


def _link_all(backends: Path, files: Mapping[str, Path]) -> None:
    """Create `backends/python/` with links to `files`, unless it has exactly these links."""
    inside = backends / "python"
    if inside.is_dir() and {link.name: link.resolve() for link in inside.iterdir()} == {
        name: file.resolve() for name, file in files.items()
    }:
        return
    with staging(backends) as staged:
        (staged / "python").mkdir()
        for name, file in files.items():
            (staged / "python" / name).symlink_to(file)
        replace_folder(staged, backends)


def _joined(first: tuple[Path, ...], rest: str | None) -> str:
    return os.pathsep.join([*map(str, first), *([rest] if rest else [])])

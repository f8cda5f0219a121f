"""Every import is declared, in the extra of the room that makes it; all that is declared is needed.

Compared by name only, so the environment need not have everything.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOMS = ("atelier", "pipelines", "services", "commands")
BESIDE = ("bench", "models", "tests")  # what only a checkout has: everything may be imported there

# Distributions whose import is not their own name.
DISTRIBUTION = {
    "PIL": "pillow",
    "pydantic_core": "pydantic",  # which pins it exactly
    "grpc": "grpcio",
    "pytriton": "nvidia-pytriton",
    "ruamel": "ruamel.yaml",
    "xdist": "pytest-xdist",
    "yaml": "pyyaml",
}

# Imported, and not declared.
UNDECLARED = {
    "bitsandbytes": "optional: 8-bit AdamW, for NVIDIA GPUs only; a recipe with it is refused",
    "tensorrt": "of NVIDIA's TensorRT image, or installed beside: it goes with the GPU's driver",
    "tensorrt-bindings": "its wheel without the libraries",
    "triton-python-backend-utils": "Triton gives it to the processes of its Python models",
}

# Declared, and never imported by us.
NEVER_IMPORTED = {
    "fastapi-offline": "services/gateway/docs.py serves the files in it",
    "onnxscript": "torch.onnx.export imports it",
    "psycopg": "SQLAlchemy imports it for postgresql+psycopg:// addresses (the tests do, too)",
    "pyopenssl": "model-signing imports it, and does not declare it",
}

# Programs that a checkout runs.
TOOLS = {
    "hatchling",
    "import-linter",
    "mypy",
    "pre-commit",
    "pytest-cov",
    "pytest-timeout",
    "ruff",
}

# The extra that has what a folder's modules import when they are imported themselves. Imports
# within functions are made where they are called: `atelier promote` on a cluster needs `serve`.
EXTRA = {
    "atelier": None,
    "commands": None,
    "commands/demo": "demo",
    "pipelines": "train",
    "services/agent": "serve",
    "services/engine": "engine",
    "services/gateway": "serve",
    "services/storage": "serve",
    "services/triton": "serve",
}


def declared(extra: str | None = None) -> set[str]:
    """The core's distributions, with those of an extra and of the extras that it is made of."""
    found: set[str] = set()
    listed = [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] if extra else ())]
    for requirement in listed:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        if name == PROJECT["name"]:
            found = found.union(*map(declared, extras.split(",")))
        else:
            found.add(name)
    return found


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def imported(file: Path, *, at_once: bool = False) -> set[str]:
    """The distributions that a module imports; `at_once`: when it is imported itself."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in _run_at_once(tree.body) if at_once else ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found |= {one.name for one in names}
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module)
            case ast.Call(
                func=ast.Name(id="import_module" | "find_spec")
                | ast.Attribute(attr="import_module" | "find_spec" | "importorskip"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                found.add(module)
    return set(filter(None, map(_distribution, found)))


def _distribution(module: str) -> str | None:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in (*ROOMS, *BESIDE):
        return None
    return DISTRIBUTION.get(top, top.replace("_", "-"))


def _run_at_once(body: Iterable[ast.stmt]) -> Iterator[ast.AST]:
    for node in body:
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                pass
            case ast.If(body=inner, orelse=other) | ast.Try(body=inner, orelse=other):
                yield from _run_at_once([*inner, *other])
            case ast.ClassDef(body=inner) | ast.With(body=inner):
                yield from _run_at_once(inner)
            case _:
                yield node


def everything(*folders: str) -> set[str]:
    return set[str]().union(*map(imported, modules(*folders)))


def test_every_import_of_the_program_is_declared() -> None:
    extras = set(PROJECT["optional-dependencies"]) - {"dev"}
    assert everything(*ROOMS) - set().union(*map(declared, extras)) == set(UNDECLARED)


def test_every_import_of_the_checkout_is_declared() -> None:
    assert everything(*BESIDE) <= declared("dev") | set(UNDECLARED)


def test_all_that_the_program_declares_is_imported_or_has_a_reason() -> None:
    assert declared("demo") - everything(*ROOMS) == set(NEVER_IMPORTED)


def test_all_that_the_checkout_declares_is_imported_or_run() -> None:
    assert declared("dev") - declared("demo") - everything(*BESIDE) == TOOLS


@pytest.mark.parametrize("folder", EXTRA)
def test_an_extra_is_enough_to_import_its_room(folder: str) -> None:
    inner = [one for one in EXTRA if one.startswith(f"{folder}/")]
    files = [
        one for one in modules(folder) if not any(ROOT / part in one.parents for part in inner)
    ]
    needed = set[str]().union(*(imported(one, at_once=True) for one in files))
    assert needed - set(UNDECLARED) <= declared(EXTRA[folder])


def test_every_room_has_its_extra() -> None:
    services = {f"services/{one.parent.name}" for one in ROOT.glob("services/*/__init__.py")}
    assert services == {one for one in EXTRA if one.startswith("services/")}

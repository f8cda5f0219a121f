"""Modules of at most 350 lines and classes of at most 200, or a written reason."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("atelier", "bench", "charts", "commands", "models", "pipelines", "services", "tests")
MODULE_LINES, CLASS_LINES = 350, 200

REASONS = {
    "atelier/data/recipe.py": "every key of a recipe, in the order of the file",
    "atelier/stores/registry.py::Registry": "one client; most methods are one call of MLflow's",
    "bench/fleet.py": "a benchmark with its simulated cluster, which nothing else uses",
    "bench/training.py": "both trainers, their measurement and the table, read from top to bottom",
    "services/engine/store.py::AdapterStore": "one owner of the host tier and its lock",
    "services/engine/volume.py::VolumeWatcher": "one owner of loaded.json and its lock",
    "tests/cluster/api/test_api_jobs.py": "the Jobs' tests share a namespace that is slow to make",
    "tests/cluster/e2e/platform.py": "one installed platform; its tests start here",
    "tests/cluster/e2e/platform.py::Platform": "one installed platform, with what tests ask of it",
    "tests/integration/gateway/test_gateway_http.py": "the tests share one gateway process",
    "tests/integration/test_registry.py": "the tests share one MLflow",
    "tests/unit/test_agent_rounds.py": "the rounds' tests share their rig",
    "tests/unit/test_gateway_app.py": "the tests share a stage of releases and reports",
    "tests/unit/test_jobs.py": "the whole Job object, field by field",
    "tests/unit/test_package.py": "every way in which a package is refused",
    "tests/unit/test_volume_watcher.py": "the tests share a volume that is slow to make",
    "tests/unit/test_workflows.py": "every rule of the workflows",
}


def oversized() -> set[str]:
    """The modules and classes above the limits, as PATH or PATH::CLASS."""
    found = set()
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            name, text = str(file.relative_to(ROOT)), file.read_text()
            if text.count("\n") > MODULE_LINES:
                found.add(name)
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.ClassDef) or node.end_lineno is None:
                    continue
                if node.end_lineno - node.lineno + 1 > CLASS_LINES:
                    found.add(f"{name}::{node.name}")
    return found


def test_what_is_large_has_a_reason() -> None:
    assert oversized() == REASONS.keys()

"""Prints every object that the charts make of the values files, and all of k8s: for kubeconform."""

import tempfile
from pathlib import Path

from tests.charts.cases import CASES, ROOT
from tests.charts.helm import Helm

# Not an object of the API: what the API server itself is told.
APPLIED = sorted(set(ROOT.glob("k8s/*.yaml")) - {ROOT / "k8s" / "authentication.yaml"})


def main() -> None:
    """One YAML stream."""
    with tempfile.TemporaryDirectory() as folder:
        helm = Helm(Path(folder))
        for chart, release, values, more in CASES:
            print(helm("template", release, chart, "--values", values, *more))
    for file in APPLIED:
        print(f"---\n{file.read_text()}")


if __name__ == "__main__":
    main()

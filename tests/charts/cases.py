"""Every chart with every values file there is: the chart, a release of it, the file, and more."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PLATFORM, ADAPTER = ROOT / "charts/atelier", ROOT / "charts/adapter"
BASE = "serving.base=sha256:" + 64 * "1"  # an environment's own is not in git until it has one
SIGNER = r"serving.signatures.signers.ci\.pem=a public key"
CASES = [
    *((PLATFORM, "atelier", file, ()) for file in sorted(PLATFORM.glob("ci/*.yaml"))),
    *(
        (PLATFORM, "atelier", file, ("--set", BASE, "--set", SIGNER))
        for file in sorted(ROOT.glob("k8s/environments/*/platform.yaml"))
    ),
    *(
        (ADAPTER, str(yaml.safe_load(file.read_text())["adapter"]), file, ())
        for file in sorted(ADAPTER.glob("ci/*.yaml"))
    ),
]


def case_id(case: tuple[Path, str, Path, tuple[str, ...]]) -> str:
    """A case in pytest's words."""
    chart, _, file, _ = case
    return f"{chart.name}-{file.parent.name}-{file.stem}"

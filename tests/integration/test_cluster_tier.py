"""The tests that need a cluster, without one: that each can be set up, the slow ones too."""

import os
import subprocess
import sys

from tests.integration.checkout import ROOT


def test_every_test_of_a_cluster_finds_its_fixtures() -> None:
    """pytest plans what each would set up, and sets nothing up. `make e2e` skips the soak, so there
    nobody would see that it asks for what it cannot have."""
    plan = [sys.executable, "-m", "pytest", "--setup-plan", "-p", "no:cacheprovider"]
    asked = {"ATELIER_SOAK": "1", "ATELIER_E2E": "planned", "ATELIER_RESULTS": ""}
    planned = subprocess.run(
        [*plan, "tests/cluster"],
        cwd=ROOT,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert planned.returncode == 0, planned.stdout[-4000:] + planned.stderr[-2000:]
    assert "(fixtures used: " in planned.stdout and "test_fifty_upgrades" in planned.stdout

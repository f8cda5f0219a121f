"""Pages that repeat what the code says, held against it."""

import re
from pathlib import Path

from atelier.boundary import INTERNAL, KEYBOARD
from atelier.errors import AtelierError, Interrupted, Refused, Unavailable
from services.gateway.problems import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
ERRORS = (ROOT / "docs" / "errors.md").read_text()


def test_every_problem_of_the_gateway_is_explained() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+) \|$", ERRORS, re.M)
    assert {slug: (int(status), title) for slug, status, title in rows} == CATALOGUE


def test_every_exit_code_is_explained() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \| ", ERRORS, re.M)}
    kinds = (AtelierError, Refused, Unavailable, Interrupted)
    assert codes == {0, INTERNAL, KEYBOARD, *(kind.exit_code for kind in kinds)}


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

"""`/docs` is whole on a network of its own: nothing that it loads is elsewhere."""

import re
from pathlib import Path
from urllib.parse import urljoin

from tests.gateway import serving


def test_the_page_loads_everything_from_here(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        page = client.http.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        loaded = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
        kinds = {
            urljoin("/docs", target): client.http.get(urljoin("/docs", target)) for target in loaded
        }
        for target, answer in kinds.items():
            assert (target[0], answer.status_code) == ("/", 200), target
        assert {answer.headers["content-type"].partition(";")[0] for answer in kinds.values()} == {
            "text/css",
            "text/javascript",
            "image/png",
            "application/json",
        }
        assert "//" not in re.sub(r"<!--.*?-->", "", page.text), "it names another host"
        assert '"validatorUrl": null' in page.text, "else the browser asks one on the internet"
        script = next(one.text for target, one in kinds.items() if target.endswith(".js"))
        assert "SwaggerUIBundle" in script


def test_there_is_no_second_page_that_a_cdn_would_have_to_fill(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        assert client.http.get("/redoc").status_code == 404

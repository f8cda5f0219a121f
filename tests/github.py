"""The three calls of GitHub's REST API that we make, on loopback: GitHub itself cannot run here."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPOSITORY = "cats/atelier"
TOKEN = "a-token"
Object = dict[str, Any]


@dataclass
class FakeGitHub:
    """Its pull requests and comments; `failure` is answered instead where it is set."""

    address: str = ""
    pulls: list[Object] = field(default_factory=list)
    comments: list[Object] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    failure: tuple[int, dict[str, str], Object] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """What a step that may talk to it has in its environment."""
        return {
            "GITHUB_API_URL": self.address,
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_TOKEN": TOKEN,
        }

    def answer(self, method: str, path: str, said: Object) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body."""
        self.asked.append(f"{method} {path}")
        if self.failure:
            return self.failure
        place, query = urlsplit(path).path, parse_qs(urlsplit(path).query)
        place = place.removeprefix(f"/repos/{REPOSITORY}")
        match (method, place.strip("/").split("/")):
            case ("GET", ["pulls"]):
                owner, branch = query["head"][0].split(":")
                assert owner == REPOSITORY.split("/")[0]
                wanted = (branch, query["base"][0], query["state"][0])
                return 200, {}, [one for one in self.pulls if _key(one) == wanted]
            case ("POST", ["pulls"]):
                number = len(self.pulls) + 1
                url = f"https://github.com/{REPOSITORY}/pull/{number}"
                self.pulls.append({**said, "number": number, "html_url": url, "state": "open"})
                return 201, {}, self.pulls[-1]
            case ("PATCH", ["pulls", number]):
                self.pulls[int(number) - 1].update(said)
                return 200, {}, self.pulls[int(number) - 1]
            case ("GET", ["issues", number, "comments"]):
                there = [one for one in self.comments if one["issue"] == int(number)]
                size, page = int(query["per_page"][0]), int(query["page"][0])
                return 200, {}, there[size * (page - 1) : size * page]
            case ("POST", ["issues", number, "comments"]):
                mark = len(self.comments) + 1
                url = f"https://github.com/{REPOSITORY}/pull/{number}#issuecomment-{mark}"
                new = {**said, "id": mark, "issue": int(number), "html_url": url}
                self.comments.append(new)
                return 201, {}, new
            case ("PATCH", ["issues", "comments", mark]):
                self.comments[int(mark) - 1].update(said)
                return 200, {}, self.comments[int(mark) - 1]
        return 404, {}, {"message": "Not Found"}


def _key(pull: Object) -> tuple[str, str, str]:
    return pull["head"], pull["base"], pull["state"]


@contextmanager
def fake_github() -> Iterator[FakeGitHub]:
    """One that answers until the end of the block."""
    made = FakeGitHub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                status, headers, answer = 401, {}, {"message": "Bad credentials"}
            else:
                said = json.loads(body) if body else {}
                status, headers, answer = made.answer(self.command, self.path, said)
            data = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = _serve  # noqa: N815 (http.server's names)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()

"""The little of GitHub's REST API that proposals need: a branch's pull request, and a comment.

https://docs.github.com/rest, version 2022-11-28.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode

from atelier import http_client
from atelier.errors import BadInput, Refused, Unavailable

if TYPE_CHECKING:
    import httpx2

SECONDS = 30.0
PAGE = 100  # as many as GitHub gives at once
BODY = 60_000  # characters; GitHub takes 65,536 in a pull request or a comment
_PULL_REQUEST = re.compile(r"refs/pull/(\d+)/(merge|head)")
_API, _REPOSITORY, _TOKEN = "GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN"


@dataclass(frozen=True)
class GitHub:
    """One repository there, as whoever holds the token."""

    api: str
    repository: str  # owner/name
    token: str

    @classmethod
    def of_environment(cls) -> Self:
        """By the variables of a workflow's step; BadInput names the one that lacks."""
        for name in (_REPOSITORY, _TOKEN):
            if not os.environ.get(name):
                raise BadInput(f"{name}: not set; a workflow's step sets it, else export it")
        api = os.environ.get(_API) or "https://api.github.com"
        return cls(api.rstrip("/"), os.environ[_REPOSITORY], os.environ[_TOKEN])

    def pull_request(self, branch: str, onto: str, title: str, body: str) -> str:
        """Open one for a branch, or write title and body of the open one anew; its address."""
        owner = self.repository.partition("/")[0]
        asked = urlencode({"head": f"{owner}:{branch}", "base": onto, "state": "open"})
        found = self._ask("GET", f"pulls?{asked}")
        said = {"title": title, "body": _fitting(body)}
        if found:
            answer = self._ask("PATCH", f"pulls/{found[0]['number']}", said)
        else:
            answer = self._ask("POST", "pulls", {**said, "head": branch, "base": onto})
        return str(answer["html_url"])

    def comment(self, number: int, kind: str, body: str) -> str:
        """Write a pull request's comment of a kind, in place of an earlier one; its address."""
        marker = f"<!-- atelier:{quote(kind)} -->"
        said = {"body": f"{marker}\n{_fitting(body)}"}
        page = 1
        while True:
            shown = self._ask("GET", f"issues/{number}/comments?per_page={PAGE}&page={page}")
            for one in shown:
                if (one.get("body") or "").startswith(marker):
                    answer = self._ask("PATCH", f"issues/comments/{one['id']}", said)
                    return str(answer["html_url"])
            if len(shown) < PAGE:
                break
            page += 1
        return str(self._ask("POST", f"issues/{number}/comments", said)["html_url"])

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        what = f"GitHub, {method} {self.repository}/{path.partition('?')[0]}"
        answer = http_client.send(
            method,
            f"{self.api}/repos/{self.repository}/{path}",
            what=what,
            timeout=SECONDS,
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {self.token}",
                "X-GitHub-Api-Version": "2022-11-28",
            },
            body=body,
        )
        if not answer.is_success:
            raise _refusal(what, answer)
        return http_client.decoded(answer, what=what)


def pull_request_of_workflow() -> int:
    """The number of the pull request that a workflow runs for; BadInput where it runs for none."""
    found = _PULL_REQUEST.fullmatch(os.environ.get("GITHUB_REF", ""))
    if found is None:
        raise BadInput(
            "GITHUB_REF: names no pull request; run this in a workflow for a pull request"
        )
    return int(found[1])


def _fitting(body: str) -> str:
    return body if len(body) <= BODY else body[:BODY] + "\n\n… (cut off: too long)"


def _refusal(what: str, answer: httpx2.Response) -> Exception:
    """Which error a status is; GitHub's own words are kept."""
    text, wait = f"{what}: {_message(answer)}", http_client.retry_after(answer)
    limited = wait is not None or answer.headers.get("X-RateLimit-Remaining") == "0"
    status = answer.status_code
    if status >= 500 or status == 429 or (status == 403 and limited):
        return Unavailable(text, retry_after=60 if wait is None else wait)
    if status in (401, 403):
        return Refused(
            f"{text}; give the job `pull-requests: write`, and let Actions create pull "
            "requests (Settings, Actions, General)"
        )
    return BadInput(text)


def _message(answer: httpx2.Response) -> str:
    try:
        said = answer.json()
        told = [said.get("message", ""), *(str(one) for one in said.get("errors", []))]
        return f"{answer.status_code} {': '.join(filter(None, told))}"
    except (ValueError, AttributeError):
        return f"{answer.status_code} {answer.reason_phrase}"

"""A client of GitHub's REST API for proposals: pull requests and comments.

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
PAGE = 100  # entries per page, GitHub's maximum
BODY = 60_000  # characters; GitHub allows 65,536 in a pull request or a comment
_PULL_REQUEST = re.compile(r"refs/pull/(\d+)/(merge|head)")
_API, _REPOSITORY, _TOKEN = "GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN"


@dataclass(frozen=True)
class GitHub:
    """One repository on GitHub, with an access token."""

    api: str
    repository: str  # owner/name
    token: str

    @classmethod
    def of_environment(cls) -> Self:
        """Read the variables of a workflow's step. Raises BadInput if one is missing."""
        for name in (_REPOSITORY, _TOKEN):
            if not os.environ.get(name):
                raise BadInput(f"{name}: not set; a workflow's step sets it, else export it")
        api = os.environ.get(_API) or "https://api.github.com"
        return cls(api.rstrip("/"), os.environ[_REPOSITORY], os.environ[_TOKEN])

    def pull_request(self, branch: str, onto: str, title: str, body: str) -> str:
        """Open a pull request for a branch, or update the open one; return its URL."""
        owner = self.repository.partition("/")[0]
        query = urlencode({"head": f"{owner}:{branch}", "base": onto, "state": "open"})
        existing = self._request("GET", f"pulls?{query}")
        content = {"title": title, "body": _fitting(body)}
        if existing:
            response = self._request("PATCH", f"pulls/{existing[0]['number']}", content)
        else:
            response = self._request("POST", "pulls", {**content, "head": branch, "base": onto})
        return str(response["html_url"])

    def comment(self, number: int, kind: str, body: str) -> str:
        """Write the comment of this kind on a pull request, or replace it; return its URL."""
        marker = f"<!-- atelier:{quote(kind)} -->"
        content = {"body": f"{marker}\n{_fitting(body)}"}
        page = 1
        while True:
            comments = self._request("GET", f"issues/{number}/comments?per_page={PAGE}&page={page}")
            for comment in comments:
                if (comment.get("body") or "").startswith(marker):
                    response = self._request("PATCH", f"issues/comments/{comment['id']}", content)
                    return str(response["html_url"])
            if len(comments) < PAGE:
                break
            page += 1
        return str(self._request("POST", f"issues/{number}/comments", content)["html_url"])

    def _request(self, method: str, path: str, body: object = None) -> Any:
        what = f"GitHub, {method} {self.repository}/{path.partition('?')[0]}"
        response = http_client.send(
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
        if not response.is_success:
            raise _refusal(what, response)
        return http_client.decoded(response, what=what)


def pull_request_of_workflow() -> int:
    """Return the number of the workflow's pull request. Raises BadInput if there is none."""
    ref = os.environ.get("GITHUB_REF", "")
    match = _PULL_REQUEST.fullmatch(ref)
    if match is None:
        raise BadInput(
            f"GITHUB_REF: {ref!r} names no pull request; run this command in a workflow that the "
            "event pull_request starts"
        )
    return int(match[1])


def _fitting(body: str) -> str:
    return body if len(body) <= BODY else body[:BODY] + "\n\n… (cut off: too long)"


def _refusal(what: str, response: httpx2.Response) -> Exception:
    """Return the error for a response, with GitHub's message."""
    text, wait = f"{what}: {_message(response)}", http_client.retry_after(response)
    limited = wait is not None or response.headers.get("X-RateLimit-Remaining") == "0"
    status = response.status_code
    if status >= 500 or status == 429 or (status == 403 and limited):
        return Unavailable(text, retry_after=60 if wait is None else wait)
    if status in (401, 403):
        return Refused(
            f"{text}; give the job `pull-requests: write`, and let Actions create pull "
            "requests (Settings, Actions, General)"
        )
    return BadInput(text)


def _message(response: httpx2.Response) -> str:
    try:
        content = response.json()
        texts = [content.get("message", ""), *(str(error) for error in content.get("errors", []))]
        return f"{response.status_code} {': '.join(filter(None, texts))}"
    except (ValueError, AttributeError):
        return f"{response.status_code} {response.reason_phrase}"

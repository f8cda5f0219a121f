"""The little of GitHub's REST API that proposals need: a branch's pull request, and a comment.

https://docs.github.com/rest, version 2022-11-28.
"""

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

from atelier.errors import BadInput, Refused, Unavailable

SECONDS = 30.0
PAGE = 100  # as many as GitHub gives at once
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
        said = {"title": title, "body": body}
        if found:
            answer = self._ask("PATCH", f"pulls/{found[0]['number']}", said)
        else:
            answer = self._ask("POST", "pulls", {**said, "head": branch, "base": onto})
        return str(answer["html_url"])

    def comment(self, number: int, kind: str, body: str) -> str:
        """Write a pull request's comment of a kind, in place of an earlier one; its address."""
        marker = f"<!-- atelier:{quote(kind)} -->"
        said = {"body": f"{marker}\n{body}"}
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
        request = urllib.request.Request(
            f"{self.api}/repos/{self.repository}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
        )
        what = f"GitHub, {method} {self.repository}/{path.partition('?')[0]}"
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise _refusal(what, error) from error
        except (OSError, ValueError) as error:
            raise Unavailable(f"{what}: {error}", retry_after=10) from error


def _refusal(what: str, error: urllib.error.HTTPError) -> Exception:
    """Which error a status is; GitHub's own words are kept."""
    said = _message(error)
    limited = error.headers.get("Retry-After") or error.headers.get("X-RateLimit-Remaining") == "0"
    if error.code >= 500 or error.code == 429 or (error.code == 403 and limited):
        wait = error.headers.get("Retry-After") or ""
        return Unavailable(f"{what}: {said}", retry_after=float(wait) if wait.isdigit() else 60)
    if error.code in (401, 403):
        return Refused(
            f"{what}: {said}; give the job `pull-requests: write`, and let Actions create pull "
            "requests (Settings, Actions, General)"
        )
    return BadInput(f"{what}: {said}")


def _message(error: urllib.error.HTTPError) -> str:
    try:
        answer = json.load(error)
        told = [answer.get("message", ""), *(str(one) for one in answer.get("errors", []))]
        return f"{error.code} {': '.join(filter(None, told))}"
    except (OSError, ValueError, AttributeError):
        return f"{error.code} {error.reason}"

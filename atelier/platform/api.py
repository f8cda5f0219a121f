"""One namespace of an API server: plain JSON objects, and errors made into ours.

Connections and credentials are the official client's (`kubernetes`): KUBECONFIG's, or a pod's
rotating token. Its object models are not used: the few fields needed are read where needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from atelier.addresses import redact
from atelier.errors import AtelierError, BadInput, Unavailable

Object = dict[str, Any]  # as the API server's JSON has it
Query = Sequence[tuple[str, str]]

CONFIG_MAPS = "/api/v1/namespaces/{namespace}/configmaps"
PODS = "/api/v1/namespaces/{namespace}/pods"
SECRETS = "/api/v1/namespaces/{namespace}/secrets"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
INFERENCE_SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices"

MANAGER = "atelier"  # the name of our fields' owner
CONNECT_SECONDS, READ_SECONDS = 2.0, 10.0
PAGE = 500  # objects in one answer
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_SHORT = 300  # characters of an API server's message that are told


class ClusterAway(Unavailable):
    """The API server does not answer, or cannot now."""


class ClusterRefused(AtelierError):  # noqa: N818 (a name that says what happened)
    """The API server says no: to this account, or to this object."""


class NotFound(ClusterRefused):
    """There is no such object, or no such kind."""


class Conflict(ClusterRefused):
    """The object is there already, or was changed meanwhile."""


class Expired(ClusterAway):
    """The version to go on from is too old: list anew."""


@dataclass(frozen=True)
class Listing:
    """Every object of a kind that a query selects."""

    objects: list[Object]
    version: str  # to watch from
    at: datetime | None  # when it was answered, by the API server's clock


class Api:
    """The API server, for one namespace. Safe to use from several threads."""

    def __init__(self, client: Any, namespace: str):
        self._client = client  # kubernetes.client.ApiClient
        self.namespace = namespace

    @classmethod
    def connect(cls, namespace: str | None = None) -> Api:
        """By KUBECONFIG where it is set, as Helm does; else by a pod's service account, else by the
        user's own file. The namespace is POD_NAMESPACE's."""
        from kubernetes import client, config

        configuration = client.Configuration()
        named = os.environ.get("KUBECONFIG")
        try:
            if named:
                config.load_kube_config(named, client_configuration=configuration)
            else:
                _of_pod_or_user(configuration)
        except (config.ConfigException, OSError) as error:
            where = f"KUBECONFIG {named}" if named else "no account's token is mounted, KUBECONFIG"
            raise BadInput(f"no cluster: {where}: {error}") from error
        configuration.retries = False  # whoever asks knows how long to wait
        return cls(client.ApiClient(configuration), namespace or _own_namespace())

    @property
    def host(self) -> str:
        """The API server's address."""
        return str(self._client.configuration.host)

    def list(self, path: str, query: Query = ()) -> tuple[list[Object], str]:
        """Every object of a kind that the query selects, and the version to watch from."""
        found = self.listing(path, query)
        return found.objects, found.version

    def listing(self, path: str, query: Query = ()) -> Listing:
        """Every object of a kind that the query selects, and when that was so."""
        found: list[Object] = []
        more = ""
        while True:
            page = [("limit", str(PAGE)), *([("continue", more)] if more else [])]
            response = self._request("GET", path, query=[*query, *page])
            answer = self._parsed(response)
            found += answer["items"]
            more = answer["metadata"].get("continue") or ""
            if not more:
                at = response.headers.get("Date")
                version = str(answer["metadata"]["resourceVersion"])
                return Listing(found, version, parsedate_to_datetime(at) if at else None)

    def watch(
        self, path: str, query: Query, version: str, *, seconds: int
    ) -> Iterator[tuple[str, Object]]:
        """What happens after `version`, as (ADDED | MODIFIED | DELETED | BOOKMARK, object).

        Ends after `seconds`. Raises Expired where `version` is too old, ClusterAway where the
        connection breaks.
        """
        told = {"watch": "1", "allowWatchBookmarks": "1", "timeoutSeconds": str(seconds)}
        timeout = (CONNECT_SECONDS, seconds + READ_SECONDS)
        query = [*query, *told.items(), ("resourceVersion", version)]
        response = self._request("GET", path, query=query, timeout=timeout)
        pending = b""
        try:
            for chunk in response.stream():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _refusal(int(event["object"].get("code") or 500), event["object"])
                    yield event["type"], event["object"]
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._away(error) from error
        finally:
            response.close()

    def get(self, path: str, name: str) -> Object:
        """One object; NotFound where it is not there."""
        return self._json("GET", f"{path}/{name}")

    def create(self, path: str, body: Object) -> Object:
        """Make an object; Conflict where it is there already."""
        return self._json("POST", path, body=json.dumps(body))

    def replace(self, path: str, body: Object) -> Object:
        """Write an object that was read; Conflict where it was changed since."""
        return self._json("PUT", f"{path}/{body['metadata']['name']}", body=json.dumps(body))

    def apply(self, path: str, body: Object) -> Object:
        """Make the object so, whether it is there or not (server-side apply)."""
        query = [("fieldManager", MANAGER), ("force", "true")]
        path = f"{path}/{body['metadata']['name']}"
        kind = "application/apply-patch+yaml"  # of which JSON is a part
        return self._json("PATCH", path, query=query, body=json.dumps(body), content_type=kind)

    def delete(self, path: str, name: str, *, version: str | None = None) -> None:
        """Take an object away with what it owns, only where it is still of that version; one that
        is gone is as good."""
        body: Object = {"propagationPolicy": "Background"}  # a Job's pods would be left behind
        body |= {"preconditions": {"resourceVersion": version}} if version else {}
        with suppress(NotFound, Conflict):
            self._json("DELETE", f"{path}/{name}", body=json.dumps(body))

    def log(
        self, path: str, pod: str, container: str, *, since: str | None = None
    ) -> Iterator[str]:
        """What a container prints, line by line, each after its time and a space.

        From the first line, or from about the time `since`; ends with the container, with the
        connection, or after some silence.
        """
        query = [("container", container), ("follow", "true"), ("timestamps", "true")]
        query += [("sinceTime", since)] if since else []
        timeout = (CONNECT_SECONDS, READ_SECONDS)
        response = self._request("GET", f"{path}/{pod}/log", query=query, timeout=timeout)
        pending = b""
        try:
            for chunk in response.stream():
                *lines, pending = (pending + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        except (urllib3.exceptions.HTTPError, OSError):
            return  # whoever follows asks again
        finally:
            response.close()
        if pending:
            yield pending.decode(errors="replace")

    def _json(self, method: str, path: str, **given: Any) -> Object:
        return self._parsed(self._request(method, path, **given))

    def _parsed(self, response: urllib3.BaseHTTPResponse) -> Object:
        try:
            found: Object = json.loads(response.data)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._away(error) from error
        return found

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: str | None = None,
        content_type: str = "application/json",
        timeout: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS),
    ) -> urllib3.BaseHTTPResponse:
        """The answer, its body not read yet; ours are the errors."""
        url = self.host + path.format(namespace=self.namespace)
        headers = {"Accept": "application/json", "Content-Type": content_type}
        # adds who we are: a pod's token is read anew when it was rotated
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        try:
            response: urllib3.BaseHTTPResponse = self._client.rest_client.pool_manager.request(
                method,
                url + ("?" + urlencode(list(query)) if query else ""),
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=timeout[0], read=timeout[1]),
                preload_content=False,
            )
            if response.status >= 400:
                raise _refusal(response.status, _status(response.data))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._away(error) from error
        return response

    def _away(self, error: Exception) -> ClusterAway:
        cause = error.__cause__ or error
        return ClusterAway(
            f"the API server at {self.host} does not answer ({type(cause).__name__}: {cause})"
        )


def _of_pod_or_user(configuration: Any) -> None:
    from kubernetes import config

    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        config.load_kube_config(client_configuration=configuration)


def _status(data: bytes) -> Mapping[str, Any]:
    """The Status object of an error; what a proxy answers instead is its message."""
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"message": data.decode(errors="replace")}


def _refusal(code: int, status: Mapping[str, Any]) -> AtelierError:
    text = f"the API server says {code}: {redact(str(status.get('message') or ''))[:_SHORT]}"
    if code == 404:
        return NotFound(text)
    if code == 409:
        return Conflict(text)
    if code == 410:
        return Expired(text)
    if code == 429 or code >= 500:
        return ClusterAway(text)
    return ClusterRefused(text)


def _own_namespace() -> str:
    if name := os.environ.get("POD_NAMESPACE"):
        return name
    try:
        return _NAMESPACE.read_text().strip()
    except OSError:
        raise BadInput("POD_NAMESPACE is not set; name the namespace to work in") from None

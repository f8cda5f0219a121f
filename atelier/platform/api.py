"""A client of the Kubernetes API for one namespace, with plain JSON objects.

Connections and credentials come from the official client (`kubernetes`): from KUBECONFIG, or from a
pod's rotating token. Its object models are not used, because few fields are needed.
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

Object = dict[str, Any]  # an object in the API server's JSON
Query = Sequence[tuple[str, str]]

CONFIG_MAPS = "/api/v1/namespaces/{namespace}/configmaps"
PODS = "/api/v1/namespaces/{namespace}/pods"
SECRETS = "/api/v1/namespaces/{namespace}/secrets"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
INFERENCE_SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices"

MANAGER = "atelier"  # the field manager of our fields
CONNECT_SECONDS, READ_SECONDS = 2.0, 10.0
PAGE = 500  # objects per response
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_SHORT = 300  # characters of an API server's message in an error


class ClusterAway(Unavailable):
    """The API server does not answer, or reports a temporary failure."""


class ClusterRefused(AtelierError):  # noqa: N818 (named after the event)
    """The API server refused a request: the account lacks permission, or the object is invalid."""


class NotFound(ClusterRefused):
    """There is no such object, or no such kind of object."""


class Conflict(ClusterRefused):
    """The object exists already, or was changed meanwhile."""


class Expired(ClusterAway):
    """The version to watch from is too old; the caller must list again."""


@dataclass(frozen=True)
class Listing:
    """All objects of a kind that a query selects."""

    objects: list[Object]
    version: str  # to watch from
    at: datetime | None  # time of the response, by the API server's clock


class Api:
    """The API server, for one namespace. Safe to use from several threads."""

    def __init__(self, client: Any, namespace: str):
        self._client = client  # kubernetes.client.ApiClient
        self.namespace = namespace

    @classmethod
    def connect(cls, namespace: str | None = None) -> Api:
        """Connect with KUBECONFIG, else a pod's service account, else the user's kubeconfig.

        The namespace is POD_NAMESPACE or the namespace of the pod. Raises BadInput if there is no
        configuration or no namespace.
        """
        from kubernetes import client, config

        configuration = client.Configuration()
        named = os.environ.get("KUBECONFIG")
        try:
            if named:
                config.load_kube_config(named, client_configuration=configuration)
            else:
                _of_pod_or_user(configuration)
        except (config.ConfigException, OSError) as error:
            place = f"KUBECONFIG {named}" if named else "no account's token is mounted, KUBECONFIG"
            raise BadInput(f"no cluster: {place}: {error}; set KUBECONFIG") from error
        configuration.retries = False  # callers decide how long to wait
        return cls(client.ApiClient(configuration), namespace or _own_namespace())

    @property
    def host(self) -> str:
        """The API server's address."""
        return str(self._client.configuration.host)

    def list(self, path: str, query: Query = ()) -> tuple[list[Object], str]:
        """Return all objects of a kind that the query selects, and the version to watch from."""
        listing = self.listing(path, query)
        return listing.objects, listing.version

    def listing(self, path: str, query: Query = ()) -> Listing:
        """Return all objects of a kind that the query selects, with the time of the listing."""
        objects: list[Object] = []
        more = ""
        while True:
            page = [("limit", str(PAGE)), *([("continue", more)] if more else [])]
            response = self._request("GET", path, query=[*query, *page])
            answer = self._parsed(response)
            objects += answer["items"]
            more = answer["metadata"].get("continue") or ""
            if not more:
                at = response.headers.get("Date")
                version = str(answer["metadata"]["resourceVersion"])
                return Listing(objects, version, parsedate_to_datetime(at) if at else None)

    def watch(
        self, path: str, query: Query, version: str, *, seconds: int
    ) -> Iterator[tuple[str, Object]]:
        """Yield the events after `version` as (ADDED | MODIFIED | DELETED | BOOKMARK, object).

        Ends after `seconds`. Raises Expired if `version` is too old, ClusterAway if the connection
        breaks.
        """
        options = {"watch": "1", "allowWatchBookmarks": "1", "timeoutSeconds": str(seconds)}
        timeout = (CONNECT_SECONDS, seconds + READ_SECONDS)
        query = [*query, *options.items(), ("resourceVersion", version)]
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
        """Return an object. Raises NotFound if it does not exist."""
        return self._json("GET", f"{path}/{name}")

    def create(self, path: str, body: Object) -> Object:
        """Create an object. Raises Conflict if it exists already."""
        return self._json("POST", path, body=json.dumps(body))

    def replace(self, path: str, body: Object) -> Object:
        """Replace an object that was read. Raises Conflict if it has changed since."""
        return self._json("PUT", f"{path}/{body['metadata']['name']}", body=json.dumps(body))

    def apply(self, path: str, body: Object) -> Object:
        """Create or update an object (server-side apply)."""
        query = [("fieldManager", MANAGER), ("force", "true")]
        path = f"{path}/{body['metadata']['name']}"
        kind = "application/apply-patch+yaml"  # JSON is valid YAML
        return self._json("PATCH", path, query=query, body=json.dumps(body), content_type=kind)

    def delete(self, path: str, name: str, *, version: str | None = None) -> None:
        """Delete an object and the objects that it owns, if it exists.

        If `version` is given, an object of another version stays.
        """
        body: Object = {"propagationPolicy": "Background"}  # otherwise the pods of a Job would stay
        body |= {"preconditions": {"resourceVersion": version}} if version else {}
        with suppress(NotFound, Conflict):
            self._json("DELETE", f"{path}/{name}", body=json.dumps(body))

    def log(
        self, path: str, pod: str, container: str, *, since: str | None = None
    ) -> Iterator[str]:
        """Yield the lines of a container's log, each preceded by its time and a space.

        Starts at the first line, or at about the time `since`. Ends with the container, with the
        connection, or after `READ_SECONDS` without output.
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
            return  # the caller tries again
        finally:
            response.close()
        if pending:
            yield pending.decode(errors="replace")

    def _json(self, method: str, path: str, **options: Any) -> Object:
        return self._parsed(self._request(method, path, **options))

    def _parsed(self, response: urllib3.BaseHTTPResponse) -> Object:
        try:
            parsed: Object = json.loads(response.data)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._away(error) from error
        return parsed

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
        """Send a request; return the response with unread body. Raises this module's errors."""
        url = self.host + path.format(namespace=self.namespace)
        headers = {"Accept": "application/json", "Content-Type": content_type}
        # adds the credentials; a pod's token is read again after its rotation
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
    """Return the Status object of an error; the text of another response becomes its message."""
    try:
        status = json.loads(data)
    except ValueError:
        status = None
    return status if isinstance(status, dict) else {"message": data.decode(errors="replace")}


def _refusal(code: int, status: Mapping[str, Any]) -> AtelierError:
    text = f"the API server answered {code}: {redact(str(status.get('message') or ''))[:_SHORT]}"
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
        raise BadInput("POD_NAMESPACE: not set; set it to the namespace to work in") from None

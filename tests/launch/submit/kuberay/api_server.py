"""An API server of Kubernetes as far as the submission goes, over loopback, for the real client and kubectl.

It keeps objects by their path and answers as the real one does: 404, 409 for names that are taken, 403 and 401, strict
validation of kinds that have a definition, dry runs, base64 in Secrets, objects that go with their owner. No operator
runs: nothing happens to a job that was created.
"""

import base64
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from launch.submit.kuberay.schema import closed_schema, problems

Object = dict[str, Any]
TOKEN = "token-of-the-user"
KINDS = {
    "namespaces": "Namespace",
    "secrets": "Secret",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "serviceaccounts": "ServiceAccount",
    "nodes": "Node",
    "rayjobs": "RayJob",
    "rayclusters": "RayCluster",
    "queues": "Queue",
    "localqueues": "LocalQueue",
    "priorityclasses": "PriorityClass",
    "workloadpriorityclasses": "WorkloadPriorityClass",
    "customresourcedefinitions": "CustomResourceDefinition",
}
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Refusal(Exception):
    """An answer with a status code and the reason in words."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass
class ApiServer:
    """The state of a cluster; tests put objects in and look at what came."""

    port: int = 0
    anonymous: bool = False
    """Whether requests without a token are answered."""
    objects: dict[str, Object] = field(default_factory=dict)
    forbidden: list[str] = field(default_factory=list)
    """Patterns of `METHOD path` that this user may not use."""
    failing: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Patterns of `METHOD path` that get this status and message."""
    slow: dict[str, float] = field(default_factory=dict)
    """Patterns of `METHOD path` that are answered after so many seconds, or when the test ends."""
    ended: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)

    def put(self, collection: str, name: str, **content: Any) -> Object:
        """An object that somebody else made."""
        return self._store(collection, {"metadata": {"name": name}, **content})

    def stored(self, plural: str) -> dict[str, Object]:
        """Objects of a kind by name."""
        return {path.rsplit("/", 1)[1]: found for path, found in self.objects.items() if path.split("/")[-2] == plural}

    def kubeconfig(self, folder: Path, *, token: str = TOKEN, port: int = 0) -> Path:
        """A file that leads to this server under the context `test`."""
        path = folder / "kubeconfig"
        entry = {"cluster": "here", "user": "me", "namespace": "elsewhere"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port or self.port}"}}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": entry}],
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def answer(self, method: str, target: str, body: Any, token: str) -> Object:
        url = urlsplit(target)
        path, options = url.path.rstrip("/"), {key: value[0] for key, value in parse_qs(url.query).items()}
        asked = f"{method} {path}"
        self.requests.append(asked + ("?dryRun" if "dryRun" in options else ""))
        for pattern, seconds in self.slow.items():
            if re.search(pattern, asked):
                self.ended.wait(seconds)
        if token != f"Bearer {TOKEN}" and not self.anonymous:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        for pattern in self.forbidden:
            if re.search(pattern, asked):
                raise Refusal(403, "Forbidden", f'{path} is forbidden: User "me" cannot do this')
        for pattern, (code, message) in self.failing.items():
            if re.search(pattern, asked):
                raise Refusal(code, "Invalid", message)
        if method == "GET":
            return self._get(path)
        if method == "POST":
            return self._create(path, body, options)
        if path not in self.objects:
            raise Refusal(404, "NotFound", f"{path} not found")
        if method == "PATCH":
            return self._store(path.rsplit("/", 1)[0], _merged(self.objects[path], body))
        gone = self.objects.pop(path)
        for owned, found in list(self.objects.items()):
            if any(owner["uid"] == gone["metadata"]["uid"] for owner in found["metadata"].get("ownerReferences", [])):
                del self.objects[owned]
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _get(self, path: str) -> Object:
        if path == "/apis":
            versions = sorted({tuple(place.split("/")[2:4]) for place in self.objects if place.startswith("/apis/")})
            groups = [
                {"name": group, "versions": [entry], "preferredVersion": entry}
                for group, version in versions
                for entry in [{"groupVersion": f"{group}/{version}", "version": version}]
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        if re.fullmatch(r"/api/v1|/apis/[^/]+/[^/]+", path):
            return self._resources(path)
        if path in self.objects:
            return self.objects[path]
        plural = path.rsplit("/", 1)[1]
        if plural in KINDS:
            items = [found for place, found in self.objects.items() if place.rsplit("/", 1)[0] == path]
            version = "/".join(path.split("/")[2:4]) if path.startswith("/apis/") else "v1"
            return {"kind": f"{KINDS[plural]}List", "apiVersion": version, "metadata": {}, "items": items}
        raise Refusal(404, "NotFound", f"{path} not found")

    def _resources(self, prefix: str) -> Object:
        """What is known of an API group; kinds with a definition even where there is no object of them."""
        plurals = {
            path.split("/")[-2]: "/namespaces/" in path for path in self.objects if path.startswith(f"{prefix}/")
        }
        if prefix == "/apis/ray.io/v1":
            plurals |= {name.split(".")[0]: True for name in self.stored("customresourcedefinitions")}
        if not plurals:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        verbs = ["create", "delete", "get", "list", "patch"]
        resources = [
            {"name": name, "singularName": KINDS[name].lower(), "namespaced": own, "kind": KINDS[name], "verbs": verbs}
            for name, own in sorted(plurals.items())
        ]
        version = prefix.removeprefix("/apis/").removeprefix("/api/")
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}

    def _create(self, path: str, body: Object, options: dict[str, str]) -> Object:
        plural, name = path.rsplit("/", 1)[1], body["metadata"]["name"]
        namespace = re.search(r"/namespaces/([^/]+)/", path)
        if namespace and f"/api/v1/namespaces/{namespace[1]}" not in self.objects:
            raise Refusal(404, "NotFound", f'namespaces "{namespace[1]}" not found')
        if path.startswith("/apis/"):
            definition = self.objects.get(f"{DEFINITIONS}/{plural}.{path.split('/')[2]}")
            if definition is None:
                raise Refusal(404, "NotFound", "the server could not find the requested resource")
            if options.get("fieldValidation") == "Strict":
                content = {key: value for key, value in body.items() if key not in ("apiVersion", "kind")}
                known = closed_schema(definition)
                known["properties"] |= {"apiVersion": {}, "kind": {}}
                if found := list(problems(content, known)):
                    raise Refusal(400, "BadRequest", f'{KINDS[plural]} "{name}" is invalid: {"; ".join(found)}')
        if f"{path}/{name}" in self.objects:
            raise Refusal(409, "AlreadyExists", f'{plural} "{name}" already exists')
        if "dryRun" in options:
            return body
        if plural == "secrets":
            plain = body.pop("stringData", {})
            encoded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
            body["data"] = {**body.get("data", {}), **encoded}
        return self._store(path, body)

    def _store(self, collection: str, content: Object) -> Object:
        made = {"uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1"}
        namespace = re.search(r"/namespaces/([^/]+)/", collection)
        plural = collection.rsplit("/", 1)[1]
        stored = {
            "apiVersion": "/".join(collection.split("/")[2:4]) if collection.startswith("/apis/") else "v1",
            "kind": KINDS[plural],
            **content,
            "metadata": {**made, **({"namespace": namespace[1]} if namespace else {}), **content["metadata"]},
        }
        self.objects[f"{collection}/{content['metadata']['name']}"] = stored
        return stored


def _merged(old: Any, new: Any) -> Any:
    """JSON merge patch."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


@contextmanager
def serving() -> Iterator[ApiServer]:
    """A server that is up for the length of the block."""
    state = ApiServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            try:
                code = 201 if self.command == "POST" else 200
                said = state.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            except Refusal as refusal:
                code = refusal.code
                said = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
                        "message": str(refusal), "reason": refusal.reason}  # fmt: skip
            text = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with suppress(ConnectionError):  # a client that lost its patience
                self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = _any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield state
        finally:
            state.ended.set()
            server.shutdown()
            thread.join()

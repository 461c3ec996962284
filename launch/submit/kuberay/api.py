"""The API of a Kubernetes cluster through the official client, its refusals in words.

Only this module and `backend` know the client. What is not there is None, what may not be asked raises
`NotAllowedError`, everything else that goes wrong is a `SubmissionError` with what the cluster said.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from delta.errors import ConfigError, SubmissionError
from launch.submit.kuberay.config import KubeRayConfig
from launch.submit.kuberay.manifest import GROUP, PLURALS, VERSION, Manifest

Answer = TypeVar("Answer")
IN_A_POD = "KUBERNETES_SERVICE_HOST"
STRICT = {"field_validation": "Strict"}
"""Unknown fields are refused; otherwise the server drops them."""


class NotAllowedError(SubmissionError):
    """The cluster does not let this user ask that."""


class TakenError(SubmissionError):
    """There is an object of this name already."""


class RefusedError(SubmissionError):
    """The object is not as the cluster wants it."""


def words_of(error: ApiException) -> str:
    """What the API server said."""
    try:
        said = json.loads(error.body or "")["message"]
    except (ValueError, KeyError, TypeError):
        said = error.body or error.reason or "no reason given"
    return f"{said} (status {error.status})" if error.status else str(said)


def connect(settings: KubeRayConfig) -> client.ApiClient:
    """A client for the context of the kubeconfig, or for the cluster around this pod.

    Raises:
        SubmissionError: There is neither, or it cannot be used.
    """
    where = client.Configuration()
    where.retries = False  # somebody waits for the answer and can repeat the question
    try:
        if IN_A_POD in os.environ and not settings.context and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=where)
        else:
            # The client's default was read when it was imported.
            files = os.environ.get("KUBECONFIG", "~/.kube/config")
            config.load_kube_config(files, context=settings.context or None, client_configuration=where)
    except (config.ConfigException, OSError) as error:
        raise SubmissionError(
            f"no way to a Kubernetes cluster: {error}. Expected a kubeconfig (KUBECONFIG or ~/.kube/config) with "
            f"{f'the context {settings.context}' if settings.context else 'a current context'}; try: "
            "kubectl cluster-info."
        ) from error
    return client.ApiClient(where)


class Cluster:
    """What a submission asks of a cluster and sends to it."""

    def __init__(self, settings: KubeRayConfig) -> None:
        """Find the way to it; nothing is asked yet."""
        self.namespace = settings.namespace
        self.timeout_s = settings.request_timeout_s
        self._client = connect(settings)
        self.host = self._client.configuration.host
        self.core = client.CoreV1Api(self._client)
        self.objects = client.CustomObjectsApi(self._client)
        self.scheduling = client.SchedulingV1Api(self._client)

    def ask(self, what: str, call: Callable[..., Answer], *args: Any, **options: Any) -> Answer | None:
        """The answer to one request; None where there is no such thing.

        Raises:
            NotAllowedError: This user may not.
            TakenError: It exists already.
            RefusedError: The object is refused.
            SubmissionError: No answer, or another trouble.
        """
        try:
            with self._in_words(what):
                return call(*args, **options, _request_timeout=self.timeout_s)
        except _MissingError:
            return None

    @contextlib.contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            said = words_of(error)
            match error.status:
                case 404:
                    raise _MissingError from error
                case 401:
                    raise SubmissionError(
                        f"{what}: {self.host} does not know this user: {said}. Log in again, or choose cluster.context."
                    ) from error
                case 403:
                    raise NotAllowedError(f"{what}: not allowed: {said}") from error
                case 409:
                    raise TakenError(f"{what}: {said}") from error
                case 400 | 422:
                    raise RefusedError(f"{what}: {said}") from error
                case _:
                    raise SubmissionError(f"{what}: {self.host} answered: {said}") from error
        except urllib3.exceptions.HTTPError as error:
            raise SubmissionError(
                f"{what}: no answer from {self.host}: {error}. Is it the right cluster.context, and does kubectl "
                "cluster-info work? cluster.request_timeout_s is the time for an answer."
            ) from error

    def definition(self, kind: str) -> Manifest | None:
        """The CustomResourceDefinition of a kind of KubeRay, as the cluster has it."""
        # As any other object: the client's own model of it leaves out fields of schemas that it does not know.
        where = ("apiextensions.k8s.io", "v1", "customresourcedefinitions", f"{PLURALS[kind]}.{GROUP}")
        return self.ask(f"asking for the definition of {kind}", self.objects.get_cluster_custom_object, *where)

    def serves(self, group: str, plural: str) -> str | None:
        """The version of an API group in which the cluster knows these objects, the preferred one first."""
        groups = self.ask("asking which APIs there are", client.ApisApi(self._client).get_api_versions)
        versions = [entry for entry in groups.groups if entry.name == group] if groups is not None else []
        for version in [version.version for entry in versions for version in entry.versions]:
            known = self.ask(f"asking for the API {group}/{version}", self.objects.get_api_resources, group, version)
            if known is not None and any(resource.name == plural for resource in known.resources):
                return version
        return None

    def ray(self, kind: str, name: str) -> Manifest | None:
        """A RayJob or RayCluster of the namespace."""
        get = self.objects.get_namespaced_custom_object
        return self.ask(f"asking for {kind} {name}", get, GROUP, VERSION, self.namespace, PLURALS[kind], name)

    def create_ray(self, manifest: Manifest, *, dry_run: bool) -> Manifest:
        """Send a RayJob or RayCluster, or have it judged only.

        Raises:
            ConfigError: There is no such namespace, or no KubeRay.
        """
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        options = {**STRICT, **({"dry_run": "All"} if dry_run else {})}
        made = self.ask(
            f"{'trying' if dry_run else 'creating'} {kind} {name}",
            self.objects.create_namespaced_custom_object,
            GROUP,
            VERSION,
            self.namespace,
            PLURALS[kind],
            manifest,
            **options,
        )
        if made is None:
            raise ConfigError(f"{self.host} has no namespace {self.namespace}, or does not know {kind}.")
        return made


class _MissingError(Exception):
    """Status 404."""

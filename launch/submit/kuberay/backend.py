"""Runs on Kubernetes: rendered, checked against schema, rules and the cluster, and sent to it."""

import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from delta.errors import ConfigError, SubmissionError
from launch.submit.backend import Submission
from launch.submit.kuberay.config import Kind, KubeRayConfig, SubmissionMode
from launch.submit.kuberay.manifest import INSTANCE, TOKEN_KEY, Manifest, build, to_yaml, token_secret
from launch.submit.kuberay.schema import closed_schema, read_definition
from launch.submit.kuberay.validate import advice, check_manifest, check_plan
from launch.submit.plan import Plan


class KubeRayBackend:
    """RayJobs and RayClusters of a namespace."""

    def __init__(self, config: KubeRayConfig) -> None:
        """Nothing is asked yet; rendering and `lint` need no cluster."""
        self.config = config

    def render(self, plan: Plan) -> Mapping[str, str]:
        """The manifest, under the name of its kind."""
        manifest = build(plan, self.config)
        return {f"{manifest['kind'].lower()}.yaml": to_yaml(manifest, plan)}

    def lint(self, plan: Plan, files: Mapping[str, str]) -> Sequence[str]:
        """Check the plan, and the manifest against the operator's rules and the schema of `cluster.crds`.

        Raises:
            ConfigError: What would be refused.
        """
        check_plan(plan, self.config)
        manifest, warnings = _manifest_in(files), advice(plan)
        if not self.config.crds:
            check_manifest(manifest, None)
            return [
                *warnings,
                "without a cluster the manifest is checked against the rules of the operator only; cluster.crds=FOLDER "
                "with KubeRay's definitions adds their schema.",
            ]
        check_manifest(manifest, closed_schema(read_definition(Path(self.config.crds), manifest["kind"])))
        return warnings

    def check(self, plan: Plan) -> Sequence[str]:
        """Ask the cluster for everything that the job names, and have the API server judge the manifest.

        The schema is the one of the cluster's own definitions, whatever `lint` was given.

        Raises:
            ConfigError: What is missing or would be refused.
            SubmissionError: There is no cluster, or no answer.
        """
        from launch.submit.kuberay import questions  # with the client, which takes a second to import
        from launch.submit.kuberay.api import Cluster, NotAllowedError

        files = self.render(plan)
        cluster, manifest = Cluster(self.config), _manifest_in(files)
        warnings: list[str] = []
        found: list[str] = []
        for question in questions.ALL:
            try:
                warnings += question(cluster, self.config, plan, manifest)
            except NotAllowedError as error:
                warnings.append(f"not checked, because {error}")
            except ConfigError as error:
                found.append(str(error))
        if found:
            raise ConfigError("\n".join(found))
        questions.judged(cluster, manifest)
        return warnings

    def submit(self, plan: Plan, files: Mapping[str, str]) -> Submission:
        """Make the Secret with the token of this job's Ray, and the job; the Secret goes when the job is deleted.

        Nothing is written into `plan.job_dir`, which is on a volume of the pods; the cluster keeps the manifest.

        Raises:
            SubmissionError: The cluster refuses; its words are in the message.
        """
        from kubernetes import client

        from launch.submit.kuberay.api import Cluster, TakenError
        from launch.submit.kuberay.questions import taken

        cluster, manifest = Cluster(self.config), _manifest_in(files)
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        secret = client.V1Secret(
            metadata=client.V1ObjectMeta(name=token_secret(kind, name), labels={INSTANCE: name}),
            type="Opaque",
            string_data={TOKEN_KEY: secrets.token_hex(32)},
        )
        where = f"Secret {token_secret(kind, name)}"
        make, remove = cluster.core.create_namespaced_secret, cluster.core.delete_namespaced_secret
        if cluster.ray(kind, name) is not None:
            raise SubmissionError(taken(kind, name, self.config.namespace))
        try:
            made = cluster.ask(f"creating {where}", make, self.config.namespace, secret)
        except TakenError:  # left by a submission that was cut off: no job has this name
            cluster.ask(f"replacing {where}", remove, token_secret(kind, name), self.config.namespace)
            made = cluster.ask(f"creating {where}", make, self.config.namespace, secret)
        if made is None:
            raise SubmissionError(f"{cluster.host} has no namespace {self.config.namespace}; create it first.")
        try:
            job = cluster.create_ray(manifest, dry_run=False)
        except (SubmissionError, ConfigError):
            # Without an answer the job may be there, and needs the Secret.
            if cluster.ray(kind, name) is None:
                cluster.ask(f"removing {where}", remove, token_secret(kind, name), self.config.namespace)
            raise
        owner = {"apiVersion": manifest["apiVersion"], "kind": kind, "name": name, "uid": job["metadata"]["uid"]}
        cluster.ask(
            f"giving {where} to {kind} {name}",
            cluster.core.patch_namespaced_secret,
            token_secret(kind, name),
            self.config.namespace,
            {"metadata": {"ownerReferences": [owner]}},
        )
        return Submission(
            job_id=name, follow=self._follow(plan, kind, name), cancel=self._kubectl(f"delete {kind.lower()} {name}")
        )

    def _kubectl(self, words: str) -> str:
        context = f" --context {self.config.context}" if self.config.context else ""
        return f"kubectl{context} -n {self.config.namespace} {words}"

    def _follow(self, plan: Plan, kind: str, name: str) -> str:
        """State; then, on the head, the output of the run, or a shell."""
        state = self._kubectl(f"get {kind.lower()} {name}")
        head = self._kubectl(f"get pod -l {INSTANCE}={name},ray.io/node-type=head -o name")
        if self.config.kind is Kind.cluster:
            return f'{state}; {self._kubectl("exec -it")} "$({head})" -- bash'
        if self.config.submission_mode is SubmissionMode.K8sJobMode:
            return f"{state}; {self._kubectl(f'logs -f job/{name}')}"
        log = shlex.quote(str(plan.job_dir / "driver.log"))
        return f'{state}; {self._kubectl("exec")} "$({head})" -- tail -n +1 -F {log}'


def _manifest_in(files: Mapping[str, str]) -> Manifest:
    """What the rendered file says: what is checked and sent is what was shown."""
    (text,) = files.values()
    manifest: Manifest = yaml.safe_load(text)
    return manifest

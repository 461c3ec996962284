"""The schema of a CustomResourceDefinition, closed: what an API server prunes or refuses is found here first.

KubeRay's definitions are not part of this project. They are read from a folder (`cluster.crds`) or asked of the
cluster that the job is for.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from delta.errors import ConfigError
from launch.submit.kuberay.manifest import GROUP, PLURALS, VERSION, Manifest

Schema = dict[str, Any]


def read_definition(folder: Path, kind: str) -> Manifest:
    """The definition of `RayJob` or `RayCluster` from a folder of YAML files named like KubeRay's.

    Raises:
        ConfigError: It is not there.
    """
    path = folder / f"{GROUP}_{PLURALS[kind]}.yaml"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cluster.crds={folder}: {path.name} cannot be read ({error.strerror}). Expected the folder "
            "helm-chart/kuberay-operator/crds of a KubeRay release."
        ) from error
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # libyaml takes seconds less
    except yaml.YAMLError as error:
        raise ConfigError(f"cluster.crds={folder}: {path.name} is not YAML ({error}); fetch it again.") from error


def closed_schema(definition: Manifest) -> Schema:
    """The schema of `ray.io/v1` with every object closed that says what is in it.

    Raises:
        ConfigError: The definition has no such version, or is no definition.
    """
    versions = {entry["name"]: entry for entry in definition.get("spec", {}).get("versions", [])}
    if not versions.get(VERSION, {}).get("served"):
        name = definition.get("metadata", {}).get("name", "the definition")
        raise ConfigError(
            f"{name} serves versions {', '.join(versions) or 'none'}; expected {GROUP}/{VERSION}. Update KubeRay."
        )
    return _closed(versions[VERSION]["schema"]["openAPIV3Schema"], root=True)


def _closed(schema: Schema, *, root: bool = False) -> Schema:
    """The same as JSON Schema: OpenAPI's own words are translated, additional properties are refused."""
    if schema.get("x-kubernetes-int-or-string"):
        pattern = {"pattern": schema["pattern"]} if "pattern" in schema else {}
        return {"anyOf": [{"type": "integer"}, {"type": "string", **pattern}]}
    closed = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if "properties" in schema:
        closed["properties"] = {name: _closed(value) for name, value in schema["properties"].items()}
        # The root has fields of every Kubernetes object, `metadata` among them, which the definition leaves open.
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            closed["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            closed[key] = _closed(schema[key])
    if schema.get("nullable") and not root:
        return {"anyOf": [closed, {"type": "null"}]}
    return closed


def problems(manifest: Manifest, schema: Schema) -> Iterator[str]:
    """What a document has that its schema does not allow, each with its place."""
    for error in sorted(
        Draft202012Validator(schema).iter_errors(manifest), key=lambda error: list(map(str, error.path))
    ):
        yield f"{_place(error)}: {_explained(error)}"


def _place(error: ValidationError) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    return place.lstrip(".") or "the document"


def _explained(error: ValidationError) -> str:
    """Seen, expected, and the nearest name for one that is unknown."""
    match error.validator:
        case "additionalProperties":
            known = list(error.schema["properties"])
            unknown = sorted(set(error.instance) - set(known))
            nearest = [close for name in unknown for close in difflib.get_close_matches(name, known, n=1)]
            hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
            return f"there is no field {', '.join(unknown)} here{hint}"
        case "required":
            missing = [name for name in error.validator_value if name not in error.instance]
            return f"{', '.join(missing)} is missing; expected all of {', '.join(error.validator_value)}"
        case "type":
            return f"{error.instance!r} is {_kind(error.instance)}; expected {error.validator_value}"
        case "enum":
            return f"{error.instance!r}; expected one of {', '.join(map(str, error.validator_value))}"
        case "anyOf" if any("pattern" in option for option in error.validator_value):
            return f"{error.instance!r} is not a quantity; expected a number with a unit such as 4, 500m or 16Gi"
        case _:
            return error.message


def _kind(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")

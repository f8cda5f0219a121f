"""Charts and k8s/ hold together without Helm: values, schemas, tables and our own models agree.

`make charts` renders them (tests/charts), and the cluster tier installs them.
"""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from atelier.data.manifest import Manifest
from atelier.data.policy import Policy
from atelier.data.release import HISTORY, Release
from atelier.platform.jobs import JobOptions
from services.gateway.app import create_app
from services.gateway.docs import PAGE
from tests.gateway import Stage

ROOT = Path(__file__).parents[2]
CHARTS = sorted(file.parent for file in (ROOT / "charts").glob("*/Chart.yaml"))
ENVIRONMENTS = sorted((ROOT / "k8s/environments").iterdir())
RELEASES = [
    *(ROOT / "charts/adapter/ci").glob("*.yaml"),
    *ROOT.glob("k8s/environments/*/adapters/*.yaml"),
]
PLATFORMS = [
    *(ROOT / "charts/atelier/ci").glob("*.yaml"),
    *ROOT.glob("k8s/environments/*/platform.yaml"),
]


charts = pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)


def schema_of(chart: Path) -> dict[str, Any]:
    return json.loads((chart / "values.schema.json").read_text())


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def resolved(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """A part of a schema, a reference followed."""
    name = part.get("$ref", "").removeprefix("#/$defs/")
    return schema["$defs"][name] if name else part


def unknown(
    schema: dict[str, Any], part: dict[str, Any], value: Any, path: str = ""
) -> Iterator[str]:
    """Keys of a value that its schema does not name; free maps (labels, amounts) name none."""
    part = resolved(schema, part)
    if isinstance(value, list):
        for one in value:
            yield from unknown(schema, part.get("items", {}), one, f"{path}[]")
    if not isinstance(value, dict) or "properties" not in part:
        return
    for key, inner in value.items():
        if key in part["properties"]:
            yield from unknown(schema, part["properties"][key], inner, f"{path}.{key}")
        else:
            yield f"{path}.{key}"


def missing(
    schema: dict[str, Any], part: dict[str, Any], value: Any, path: str = ""
) -> Iterator[str]:
    """Keys that the schema names and values.yaml does not say anything about."""
    part = resolved(schema, part)
    if not isinstance(value, dict) or not value:  # {} is for the operator to fill
        return
    for key, inner in part.get("properties", {}).items():
        if key not in value:
            yield f"{path}.{key}"
        else:
            yield from missing(schema, inner, value[key], f"{path}.{key}")


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema that lists properties."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield path, schema
        for key, inner in schema.items():
            yield from objects(inner, f"{path}/{key}")


@charts
def test_schema_and_values_name_the_same_keys(chart):
    schema, values = schema_of(chart), read(chart / "values.yaml")
    assert list(unknown(schema, schema, values)) == []
    assert set(missing(schema, schema, values)) == {".global"}  # Helm's own


@charts
def test_every_object_of_a_schema_refuses_a_misspelt_key(chart):
    schema = schema_of(chart)
    assert [
        path for path, one in objects(schema) if one.get("additionalProperties") is not False
    ] == []


@charts
def test_the_readme_has_the_table_of_values(chart):
    spec = importlib.util.spec_from_file_location("readme", ROOT / "charts/readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    assert (chart / "README.md").read_text() == readme.readme(chart), "run python charts/readme.py"


@charts
def test_a_template_has_one_object(chart):
    for file in chart.glob("templates/**/*.yaml"):
        assert len(re.findall(r"^kind: ", file.read_text(), re.M)) == 1, file


@pytest.mark.parametrize("file", PLATFORMS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_values_of_a_platform_are_known(file):
    schema = schema_of(ROOT / "charts/atelier")
    assert list(unknown(schema, schema, read(file))) == []


@pytest.mark.parametrize("file", RELEASES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_values_of_a_release_are_one(file):
    schema, values = schema_of(ROOT / "charts/adapter"), read(file)
    assert list(unknown(schema, schema, values)) == []
    fields = Release.model_fields.keys() & values.keys()
    release = Release.model_validate({field: values[field] for field in fields})
    named = {release.digest, *(past.digest for past in release.previous)}
    named |= {release.canary.digest} if release.canary else set()
    assert named == set(values["manifests"])
    for digest, text in values["manifests"].items():
        manifest = Manifest.model_validate_json(text)
        assert (manifest.digest, manifest.canonical().decode()) == (digest, text)


def test_the_schema_of_a_release_is_the_models():
    schema = schema_of(ROOT / "charts/adapter")
    ours = {"manifests", "hook", "global"}
    told_by_helm = {"revision", "reason", "since"}  # helm history
    assert schema["properties"].keys() - ours == Release.model_fields.keys() - told_by_helm
    assert schema["properties"]["previous"]["maxItems"] == HISTORY
    for field in ("canary", "previous"):
        inner = schema["properties"][field]
        listed = inner.get("items", inner)["properties"].keys()
        model = Release.model_fields[field]
        kinds = [one for one in _models(model.annotation) if one.model_fields.keys() == listed]
        assert kinds, f"{field}: {sorted(listed)}"


def _models(annotation: Any) -> Iterator[Any]:
    if hasattr(annotation, "model_fields"):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


def test_what_templates_run_exists():
    """Modules that containers run; tests/unit/test_settings.py has the variables they set."""
    templates = [file.read_text() for file in (ROOT / "charts").glob("*/templates/**/*.*")]
    templates.append((ROOT / "k8s/storage.yaml").read_text())
    text = "\n".join(templates)
    modules = set(re.findall(r"python, -m, ([a-z_.]+)", text))
    assert {"services.triton", "services.agent", "services.gateway", "services.storage"} <= modules
    absent = {one for one in modules if importlib.util.find_spec(one) is None}
    assert absent == set()


def manifests() -> list[dict[str, Any]]:
    """What an administrator applies: all but a file that the API server is given."""
    files = sorted((ROOT / "k8s").glob("*.yaml"))
    found = [one for file in files for one in yaml.safe_load_all(file.read_text())]
    return [one for one in found if one["kind"] != "AuthenticationConfiguration"]


def test_the_route_from_outside_leads_to_all_but_probes_and_metrics(tmp_path):
    template = (ROOT / "charts/atelier/templates/gateway/httproute.yaml").read_text()
    (named,) = re.findall(r"range list (.*?) }}", template)
    outside = re.findall(r'"(/[^"]+)"', named)
    app = create_app(Stage(tmp_path).settings())
    paths = {*app.openapi()["paths"], app.openapi_url, PAGE, "/metrics"}
    inside = {one for one in paths if not any(f"{one}/".startswith(f"{to}/") for to in outside)}
    assert inside == {"/healthz", "/readyz", "/metrics"}


def test_k8s_names_no_object_twice_and_labels_each():
    keys = [
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        for one in manifests()
    ]
    assert len(set(keys)) == len(keys)
    assert {one["metadata"]["labels"]["app.kubernetes.io/part-of"] for one in manifests()} == {
        "atelier"
    }


def test_every_namespace_enforces_restricted():
    namespaces = {one["metadata"]["name"]: one for one in manifests() if one["kind"] == "Namespace"}
    assert namespaces.keys() >= {f"atelier-{one.name}" for one in ENVIRONMENTS}
    for one in namespaces.values():
        assert one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    used = {one["metadata"].get("namespace") for one in manifests()} - {None}
    assert used <= namespaces.keys()


def test_queues_lead_somewhere():
    by_kind: dict[str, dict[str, Any]] = {}
    for one in manifests():
        by_kind.setdefault(one["kind"], {})[one["metadata"]["name"]] = one.get("spec", one)
    for queue in by_kind["LocalQueue"].values():
        groups = by_kind["ClusterQueue"][queue["clusterQueue"]]["resourceGroups"]
        for group in groups:
            for flavor in group["flavors"]:
                assert flavor["name"] in by_kind["ResourceFlavor"]
                assert [one["name"] for one in flavor["resources"]] == group["coveredResources"]


def test_an_urgent_training_outranks_one_that_names_no_priority():
    """Kueue takes the pods' PriorityClass then: equal ones take nothing from one another."""
    values = {one["metadata"]["name"]: one["value"] for one in manifests() if "value" in one}
    usual = values[JobOptions().priority_class]
    assert values["atelier-urgent"] > values["atelier-normal"] == usual
    assert values["atelier-serving"] > usual


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.name)
def test_an_environment_has_its_values_and_its_policy(environment):
    assert read(environment / "platform.yaml")["environment"] == environment.name
    policy = Policy.load(environment / "policy.yaml")
    assert {"subject", "copying", "effect"} <= policy.gates.keys()


def test_production_asks_no_less_than_staging():
    staging, production = (
        Policy.load(ROOT / f"k8s/environments/{name}/policy.yaml")
        for name in ("staging", "production")
    )
    assert staging.tightened(production.gates).gates == production.gates
    less = staging.model_copy(update={"gates": staging.against_serving})
    assert less.tightened(production.against_serving).gates == production.against_serving
    assert staging.seeds.first <= production.seeds.first

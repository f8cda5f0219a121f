"""What Helm makes of the charts, with every values file there is. Run by `make charts`."""

import json
import re
import shutil
import subprocess
from collections import Counter
from typing import Any

import pytest
import yaml

from atelier.data.manifest import Manifest
from atelier.data.release import Release
from tests.charts.cases import ADAPTER, CASES, PLATFORM, ROOT, case_id
from tests.charts.helm import HelmError, Object, program
from tests.charts.restricted import containers, pods, refusals_of_container, refusals_of_pod


@pytest.fixture(scope="module", params=CASES, ids=case_id)
def case(request, helm) -> list[Object]:
    chart, release, file, more = request.param
    return helm.template(chart, release, file, *more)


def one_of(objects: list[Object], kind: str, name: str | None = None) -> Object:
    found = [
        one for one in objects if one["kind"] == kind and name in (None, one["metadata"]["name"])
    ]
    assert len(found) == 1, (kind, name, [one["metadata"]["name"] for one in found])
    return found[0]


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def pod_labels(one: Object) -> dict[str, str]:
    """Labels of the pods of a workload; those that KServe adds among them."""
    if one["kind"] == "InferenceService":
        return {
            **one["metadata"]["labels"],
            "serving.kserve.io/inferenceservice": one["metadata"]["name"],
        }
    if one["kind"] == "Pod":
        return one["metadata"]["labels"]
    spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one["spec"]
    return spec["template"]["metadata"]["labels"]


def test_every_pod_is_restricted(case):
    told = {
        f"{one['kind']} {one['metadata']['name']}: {why}"
        for one in case
        for why in [
            *(why for spec in pods(one) for why in refusals_of_pod(spec)),
            *(
                f"{box['name']} {why}"
                for box in containers(one)
                for why in refusals_of_container(box)
            ),
        ]
    }
    assert told == set()


def test_containers_mount_what_there_is(case):
    for one in case:
        for spec in pods(one):
            volumes = {volume["name"] for volume in spec.get("volumes", ())}
            volumes |= {
                claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", ())
            }
            for box in containers(one):
                assert {mount["name"] for mount in box.get("volumeMounts", ())} <= volumes


def test_objects_are_named_once_and_carry_the_recommended_labels(case):
    names = Counter((one["kind"], one["metadata"]["name"]) for one in case)
    assert set(names.values()) == {1}
    wanted = {f"app.kubernetes.io/{key}" for key in ("name", "instance", "component", "part-of")}
    assert [
        one["metadata"]["name"] for one in case if not wanted <= one["metadata"]["labels"].keys()
    ] == []


def test_selectors_find_pods(case):
    """Of Services, budgets and network rules; the hooks' pods are of other releases too."""
    workloads = [pod_labels(one) for one in case if next(pods(one), None)]
    for one in case:
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            assert any(matches(spec["selector"], labels) for labels in workloads), one
        if one["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
            selector = (spec.get("podSelector") or spec["selector"])["matchLabels"]
            assert any(matches(selector, labels) for labels in workloads), one["metadata"]["name"]


def test_accounts_have_their_roles(case):
    if not any(one["kind"] == "RoleBinding" for one in case):
        return
    accounts = {one["metadata"]["name"] for one in case if one["kind"] == "ServiceAccount"}
    for one in case:
        if one["kind"] == "RoleBinding":
            assert one["roleRef"]["name"] in {
                role["metadata"]["name"] for role in case if role["kind"] == "Role"
            }
            assert {subject["name"] for subject in one["subjects"]} <= accounts
        for spec in pods(one):
            token = spec.get("automountServiceAccountToken") is not False
            assert not token or spec["serviceAccountName"] in accounts, one["metadata"]["name"]


def test_rules_grant_no_more_than_what_is_used(case):
    """No wildcard, no Secret, nothing written but Leases."""
    for role in (one for one in case if one["kind"] == "Role"):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert set(rule["resources"]) <= {"configmaps", "leases", "inferenceservices"}
            if rule["resources"] != ["leases"]:
                assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_the_engine_never_holds_a_token(helm):
    objects = helm.template(PLATFORM, "atelier", PLATFORM / "ci/gpu.yaml")
    predictor = one_of(objects, "InferenceService")["spec"]["predictor"]
    assert predictor["automountServiceAccountToken"] is False
    tokens = [volume["name"] for volume in predictor["volumes"] if "projected" in volume]
    engine = one_of(objects, "ServingRuntime")["spec"]["containers"][0]
    holders = {
        box["name"]
        for box in [engine, *predictor["containers"], *predictor["initContainers"]]
        for mount in box["volumeMounts"]
        if mount["name"] in tokens
    }
    assert holders == {"agent"}
    assert (
        not any("MLFLOW" in json.dumps(engine[field]) for field in ("env",))
        and "envFrom" not in engine
    )


def test_pods_start_anew_when_mlflow_moved_and_not_when_the_schedule_changed(helm):
    def template(*settings: str) -> Object:
        more = [argument for setting in settings for argument in ("--set", setting)]
        objects = helm.template(PLATFORM, "atelier", PLATFORM / "ci/least.yaml", *more)
        return one_of(objects, "InferenceService")["spec"]

    assert template() == template("hook.schedule=0 * * * *")
    assert template() != template("mlflow.trackingUri=http://other:5000")


def test_a_new_chart_alone_starts_no_pod_anew(helm, tmp_path):
    shutil.copytree(PLATFORM, tmp_path / "atelier")
    about = tmp_path / "atelier/Chart.yaml"
    about.write_text(re.sub(r"(?m)^version: .*", "version: 9.9.9", about.read_text()))
    kinds = ("Deployment", "StatefulSet", "InferenceService", "ServingRuntime")
    old, new = (
        [
            one["spec"]
            for one in helm.template(chart, "atelier", PLATFORM / "ci/miniature.yaml")
            if one["kind"] in kinds
        ]
        for chart in (PLATFORM, tmp_path / "atelier")
    )
    assert len(old) == 5
    assert old == new


def test_only_the_gateway_reaches_tritons_ports(helm):
    objects = helm.template(PLATFORM, "atelier", PLATFORM / "ci/miniature.yaml")
    policy = one_of(objects, "NetworkPolicy", "atelier-serving")["spec"]
    gateway = pod_labels(one_of(objects, "Deployment", "atelier-gateway"))
    for rule in policy["ingress"]:
        if {port["port"] for port in rule["ports"]} & {8080, 9000}:
            (peer,) = rule["from"]
            assert matches(peer["podSelector"]["matchLabels"], gateway)
            assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
            assert "namespaceSelector" not in peer


def test_a_release_is_what_our_model_reads(helm):
    for file in sorted(ADAPTER.glob("ci/*.yaml")):
        data = one_of(helm.template(ADAPTER, "thor-cat", file), "ConfigMap", "release-thor-cat")[
            "data"
        ]
        release = Release.model_validate_json(data["release.json"])
        values = yaml.safe_load(file.read_text())
        assert (release.version, release.digest) == (values["version"], values["digest"])
        assert len(release.previous) == len(values.get("previous", []))
        assert (release.canary is None) == ("canary" not in values)
        for digest, text in json.loads(data["manifests.json"]).items():
            assert Manifest.model_validate_json(text).digest == digest


@pytest.mark.parametrize(
    ("chart", "file", "setting", "told"),
    [
        (PLATFORM, "ci/least.yaml", "serving.replcas.min=3", "'replcas' not allowed"),
        (PLATFORM, "ci/least.yaml", "gateway.database.secert=x", "'secert' not allowed"),
        (PLATFORM, "ci/least.yaml", "serving.engine.device=gpu", "/serving/engine/device"),
        (PLATFORM, "ci/least.yaml", "serving.base=latest", "/serving/base"),
        (PLATFORM, "ci/least.yaml", "environment=null", "missing property 'environment'"),
        (PLATFORM, "ci/least.yaml", "environment=", "/environment"),
        (PLATFORM, "ci/least.yaml", "serving.replicas.min=9", "min is larger than max"),
        (PLATFORM, "ci/least.yaml", "serving.engine.backend=onnx", "serving.compiled"),
        (PLATFORM, "ci/least.yaml", "mlflow.trackingUri=", "mlflow.trackingUri: name an MLflow"),
        (
            PLATFORM,
            "ci/least.yaml",
            "gateway.database.secret=",
            "gateway.database.secret: name a Secret",
        ),
        (PLATFORM, "ci/gpu.yaml", "serving.canary[0].percent=99", "add up to"),
        (ADAPTER, "ci/first.yaml", "digest=null", "missing property 'digest'"),
        (ADAPTER, "ci/first.yaml", "digest=latest", "/digest"),
        (ADAPTER, "ci/first.yaml", "digset=x", "'digset' not allowed"),
        (ADAPTER, "ci/first.yaml", "version=0", "/version"),
        (ADAPTER, "ci/first.yaml", "adapter=other", "name the release after the adapter"),
        (
            ADAPTER,
            "ci/first.yaml",
            f"digest=sha256:{64 * '1'}",
            "is missing; add the text of that package's manifest",
        ),
        (ADAPTER, "ci/first.yaml", "canary.version=3", "'digest', 'percent' required"),
    ],
)
def test_nonsense_is_refused_in_words(helm, chart, file, setting, told):
    name = "thor-cat" if chart == ADAPTER else "atelier"
    with pytest.raises(HelmError, match=told):
        helm.template(chart, name, chart / file, "--set", setting)


def test_a_manifest_that_was_changed_is_refused(helm, tmp_path):
    changed = (ADAPTER / "ci/first.yaml").read_text().replace("sks cat", "sks dog")
    (tmp_path / "values.yaml").write_text(changed)
    with pytest.raises(HelmError, match="another digest"):
        helm.template(ADAPTER, "thor-cat", tmp_path / "values.yaml")


def test_no_adapter_takes_the_platforms_release(helm):
    with pytest.raises(HelmError, match="atelier is the platform's name"):
        helm.template(ADAPTER, "atelier", ADAPTER / "ci/first.yaml", "--set", "adapter=atelier")


def test_names_that_yaml_takes_for_numbers_stay_names(helm):
    for name in ("007", "1e3", "true"):
        objects = helm.template(
            ADAPTER, name, ADAPTER / "ci/first.yaml", "--set-string", f"adapter={name}"
        )
        hook = one_of(objects, "Job")
        assert hook["metadata"]["labels"]["atelier.dev/adapter"] == name
        assert hook["spec"]["template"]["spec"]["containers"][0]["command"][-1] == name


def test_the_storage_initializer_is_restricted_too():
    one = yaml.safe_load((ROOT / "k8s/storage.yaml").read_text())
    (box,) = containers(one)
    assert list(refusals_of_container(box)) == []


@pytest.mark.parametrize("chart", [PLATFORM, ADAPTER], ids=lambda chart: chart.name)
def test_helm_finds_nothing_to_say(helm, chart):
    values = PLATFORM / "ci/miniature.yaml" if chart == PLATFORM else ADAPTER / "ci/first.yaml"
    assert "0 chart(s) failed" in helm("lint", "--strict", chart, "--values", values)


@pytest.mark.parametrize("chart", [PLATFORM, ADAPTER], ids=lambda chart: chart.name)
def test_suites_of_helm_unittest(chart):
    done = subprocess.run(
        [program("helm-unittest"), "--strict", chart],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    suites = len(list(chart.glob("tests/*_test.yaml")))
    assert suites and f"{suites} passed, {suites} total" in done.stdout, done.stdout

"""Pod Security "restricted" as a function: what of a pod would be refused, and a little more.

After the Kubernetes documentation's list of the profile; the cluster tier lets the real admission
judge as well. More: a read-only root, resources, and no links to Services in the environment.
"""

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"}
VOLUMES |= {"persistentVolumeClaim"}


def pods(one: Object) -> Iterator[Object]:
    """The pod specs in an object, a ServingRuntime's container as part of none."""
    kind, spec = one["kind"], one.get("spec", {})
    if kind == "Pod":
        yield spec
    elif kind in ("Deployment", "StatefulSet", "Job"):
        yield spec["template"]["spec"]
    elif kind == "CronJob":
        yield spec["jobTemplate"]["spec"]["template"]["spec"]
    elif kind == "InferenceService":
        yield spec["predictor"]


def containers(one: Object) -> Iterator[Object]:
    """Every container of an object, a canary's and a ServingRuntime's among them."""
    specs = [*pods(one)]
    if one["kind"] in ("ServingRuntime",):
        specs.append(one["spec"])
    if one["kind"] == "ClusterStorageContainer":
        specs.append({"containers": [one["spec"]["container"]]})
    specs += [canary["predictor"] for canary in one.get("spec", {}).get("canary") or ()]
    for spec in specs:
        yield from spec.get("initContainers", ())
        yield from spec.get("containers", ())


def refusals_of_pod(spec: Object) -> Iterator[str]:
    """Why admission would refuse a pod, its containers aside."""
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        yield "runs as root"
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"has {field}"
    for volume in spec.get("volumes", ()):
        if kinds := volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']} is a {kinds.pop()}"
    if spec.get("enableServiceLinks") is not False:
        yield "gets links to Services, which look like settings of ours"


def refusals_of_container(one: Object) -> Iterator[str]:
    """Why admission, or we, would refuse a container."""
    security = one.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if security.get("privileged") or security.get("runAsUser") == 0:
        yield "is privileged"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "can write to its image"
    for bound in ("requests", "limits"):
        if "memory" not in one.get("resources", {}).get(bound, {}):
            yield f"has no memory in its {bound}"
    if any("hostPort" in port for port in one.get("ports", ())):
        yield "takes a port of the node"

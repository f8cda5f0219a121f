"""A Job's object, as the API server takes it.

A pod is only ever a place to run: what it has done lies in a claim (checkpoints, what it fetched)
and in MLflow. So a pod that is taken away (eviction, preemption, a node that goes) costs nothing
but what it did since its last checkpoint, and counts as no failure. The exit codes are
atelier.errors'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from atelier.platform.jobs.spec import Spec

Object = dict[str, Any]

CONTAINER = "job"
SPEC_ANNOTATION = "atelier.dev/spec"
HOME = "/var/lib/atelier"  # in the container
USER = 10001  # of the images
GRACE = 120  # seconds from SIGTERM to SIGKILL: a step, a checkpoint, and a word to MLflow
TMP = "10Gi"  # of the node's disk, for /tmp; what is large goes to the claim
HUB_KEYS = ("HF_TOKEN", "WANDB_API_KEY")

_FINAL = [1, 2]  # refused by a gate or a check, bad input: trying again gives the same
_STOPPED = [143]  # by SIGTERM, with all that is needed to go on
_MLFLOW_KEYS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@dataclass(frozen=True)
class Work:
    """What a Job does, which is all that kinds of Jobs differ in. Equal work has an equal name."""

    name: str  # of the Job and of a claim of its own; at most 63 characters
    kind: str  # app.kubernetes.io/name
    spec: Spec  # given to the command as --spec
    command: Sequence[str]
    processes: int = 1  # that share the CPUs
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    hub_keys: Sequence[str] = ()  # of the hubs' Secret
    config_maps: Mapping[str, str] = field(default_factory=dict)  # by the folder they appear as


@dataclass(frozen=True)
class JobOptions:
    """Where and how a Job runs.

    None of it is part of what is asked for; yet sums are rounded by the number of threads (`cpu`),
    the kind of GPU and the image's libraries, so what another choice makes differs in last bits.
    """

    namespace: str = "atelier-training"
    image: str = "atelier-train:latest"
    gpus: int = 0
    gpu_kind: str | None = None  # as nodes are labelled; None for any GPU of the pool
    queue: str | None = None  # Kueue's LocalQueue
    priority: str | None = None  # Kueue's WorkloadPriorityClass
    priority_class: str = "atelier-training"  # of the pod: it takes no running pod's place
    volume: str | None = None  # a claim that is there; None for one of the Job's own
    volume_size: str = "50Gi"
    volume_class: str | None = None
    cpu: str = "4"
    memory: str = "16Gi"
    retries: int = 6  # of failures that may pass: 10 s, 20 s, 40 s … between them
    deadline: int = 72 * 3600  # seconds from its start; a suspended one's clock stands
    ttl: int = 72 * 3600  # seconds that a finished Job and its claim stay: a weekend
    service_account: str = "atelier-training"
    mlflow_secret: str = "atelier-mlflow"
    hub_secret: str = "atelier-hub"
    pull_policy: str = "IfNotPresent"
    env: Mapping[str, str] = field(default_factory=dict)


def job_object(work: Work, options: JobOptions) -> Object:
    """The Job that does the work."""
    queue = {"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}
    if options.queue and options.priority:
        queue["kueue.x-k8s.io/priority-class"] = options.priority
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": work.name,
            "namespace": options.namespace,
            "labels": {**_labels(work), **queue},
            "annotations": {SPEC_ANNOTATION: work.spec.model_dump_json()},
        },
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": options.retries,
            # A node that runs out of disk or memory evicts as a drained one does, which counts for
            # nothing: a Job that is the cause would start again for ever.
            "activeDeadlineSeconds": options.deadline,
            "ttlSecondsAfterFinished": options.ttl,
            "podReplacementPolicy": "Failed",  # two pods would write into one folder
            "podFailurePolicy": {"rules": _rules()},
            **({"suspend": True} if options.queue else {}),  # Kueue admits it
            "template": {
                "metadata": {"labels": _labels(work)},
                "spec": _pod(work, options),
            },
        },
    }


def claim_object(work: Work, options: JobOptions, job: Object) -> Object | None:
    """The claim of a Job that was created; it goes with the Job, unless the Job failed and another
    takes it over (see submitting.py). None where `volume` names one."""
    if options.volume:
        return None
    made = job["metadata"]
    storage_class = {"storageClassName": options.volume_class} if options.volume_class else {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": made["name"],
            "namespace": options.namespace,
            "labels": _labels(work),
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": made["name"], "uid": made["uid"]}
            ],
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": options.volume_size}},
            **storage_class,
        },
    }


def _labels(work: Work) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": work.kind,
        "app.kubernetes.io/part-of": "atelier",
        "app.kubernetes.io/managed-by": "atelier",
        **work.labels,
    }


def _rules() -> list[Object]:
    """The first that fits decides; what none fits counts towards the retries."""
    codes = {"containerName": CONTAINER, "operator": "In"}
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return [
        {"action": "Ignore", "onPodConditions": [disrupted]},
        {"action": "FailJob", "onExitCodes": {**codes, "values": _FINAL}},
        {"action": "Ignore", "onExitCodes": {**codes, "values": _STOPPED}},
    ]


def _pod(work: Work, options: JobOptions) -> Object:
    volumes: list[Object] = [
        {"name": "home", "persistentVolumeClaim": {"claimName": options.volume or work.name}},
        {"name": "tmp", "emptyDir": {"sizeLimit": TMP}},
    ]
    mounts: list[Object] = [
        {"name": "home", "mountPath": HOME},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    for folder, config_map in work.config_maps.items():
        name = PurePosixPath(folder).name
        volumes.append({"name": name, "configMap": {"name": config_map}})
        mounts.append({"name": name, "mountPath": folder, "readOnly": True})
    if options.gpus > 1:  # NCCL's processes exchange through shared memory
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return {
        "restartPolicy": "Never",
        "serviceAccountName": options.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        # A container's first process ignores SIGTERM until it has said what it does then, which a
        # training does after half a minute of imports. Behind the pod's own first process, it ends.
        "shareProcessNamespace": True,
        "priorityClassName": options.priority_class,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **(_gpu_pool(options.gpu_kind) if options.gpus else {}),
        "containers": [_container(work, options, mounts)],
        "volumes": volumes,
    }


def _gpu_pool(kind: str | None) -> Object:
    """Only nodes of the GPU pool, whose taint keeps others away; of one kind where it is named."""
    wanted = {"atelier.dev/pool": "gpu"}
    if kind:
        wanted["nvidia.com/gpu.product"] = kind  # NVIDIA's device plugin labels nodes so
    terms = [{"key": key, "operator": "In", "values": [value]} for key, value in wanted.items()]
    required = {"nodeSelectorTerms": [{"matchExpressions": terms}]}
    tolerated = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        "tolerations": [tolerated],
    }


def _container(work: Work, options: JobOptions, mounts: list[Object]) -> Object:
    requests: dict[str, str] = {"cpu": options.cpu, "memory": options.memory}
    gpus = {"nvidia.com/gpu": str(options.gpus)} if options.gpus else {}
    return {
        "name": CONTAINER,
        "image": options.image,
        "imagePullPolicy": options.pull_policy,
        "command": [*work.command, "--spec", work.spec.model_dump_json()],
        "env": _environment(work, options),
        "resources": {
            "requests": {**requests, **gpus},
            "limits": {"memory": options.memory, **gpus},
        },
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _environment(work: Work, options: JobOptions) -> list[Object]:
    """Addresses and credentials come from Secrets of the namespace; no submission carries them."""
    plain = {"ATELIER_HOME": HOME, "HOME": "/tmp", "HF_HOME": f"{HOME}/cache/hub"}
    plain["OMP_NUM_THREADS"] = str(_threads(options.cpu, work.processes))  # on any node
    plain |= {**work.env, **options.env}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        _secret("MLFLOW_TRACKING_URI", options.mlflow_secret, optional=False),
        *(_secret(key, options.mlflow_secret) for key in _MLFLOW_KEYS),
        *(_secret(key, options.hub_secret) for key in work.hub_keys),
    ]


def _threads(cpu: str, processes: int) -> int:
    """Whole CPUs for each process, of a Kubernetes quantity for all; at least one."""
    cpus = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    return max(1, int(cpus / processes))


def _secret(key: str, name: str, *, optional: bool = True) -> Object:
    wanted = {"name": name, "key": key, "optional": optional}
    return {"name": key, "valueFrom": {"secretKeyRef": wanted}}

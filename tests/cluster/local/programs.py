"""The programs of the cluster, in the order in which they start."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.cluster.local.namespaces import on_node
from tests.cluster.local.processes import Program, command
from tests.cluster.local.settings import NODE, Settings
from tests.cluster.local.tools import program

ETCD = "http://127.0.0.1:2379"
CONTAINERD = "/run/containerd/containerd.sock"
DOMAIN = "cluster.local"


def programs(settings: Settings, pause: str) -> tuple[Program, ...]:
    """Return all programs; `pause` is the image that keeps a pod's namespaces."""
    return (
        _registry(settings),
        _etcd(settings),
        _apiserver(settings),
        *_controllers(settings),
        _containerd(settings, pause),
        _kubelet(settings),
        _proxy(settings),
    )


def _registry(settings: Settings) -> Program:
    config = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(settings.blobs)},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"{settings.node}:5000"},
    }
    path = settings.config / "registry.yaml"
    return Program(
        "registry",
        (str(program("registry")), "serve", str(path)),
        ready=_responds(f"http://{settings.registry}/v2/"),
        files={path: yaml.safe_dump(config)},
        environment={"OTEL_TRACES_EXPORTER": "none"},  # the default needs a collector
    )


def _etcd(settings: Settings) -> Program:
    # In memory, because a busy disk would slow every write. The data need not survive `down`.
    flags = command(
        "etcd",
        data_dir="/run/etcd",
        listen_client_urls=ETCD,
        advertise_client_urls=ETCD,
        listen_peer_urls="http://127.0.0.1:2380",
    )
    return Program("etcd", flags)


def _apiserver(settings: Settings) -> Program:
    pki = settings.pki
    flags = command(
        program("kube-apiserver"),
        etcd_servers=ETCD,
        advertise_address=settings.node,
        secure_port=6443,
        service_cluster_ip_range=settings.services,
        tls_cert_file=pki / "apiserver.crt",
        tls_private_key_file=pki / "apiserver.key",
        client_ca_file=pki / "ca.crt",
        service_account_key_file=pki / "sa.pub",
        service_account_signing_key_file=pki / "sa.key",
        service_account_issuer=f"https://kubernetes.default.svc.{DOMAIN}",
        authorization_mode="Node,RBAC",
        enable_admission_plugins="NodeRestriction",
        allow_privileged=True,
        kubelet_client_certificate=pki / "apiserver-kubelet.crt",
        kubelet_client_key=pki / "apiserver-kubelet.key",
        kubelet_certificate_authority=pki / "ca.crt",
        kubelet_preferred_address_types="InternalIP",
    )
    ready = _responds(f"{settings.api}/readyz", ca=pki / "ca.crt")
    return Program("kube-apiserver", flags, ready, seconds=180)


def _controllers(settings: Settings) -> tuple[Program, Program]:
    pki = settings.pki
    manager = command(
        program("kube-controller-manager"),
        kubeconfig=pki / "controller-manager.conf",
        cluster_signing_cert_file=pki / "ca.crt",
        cluster_signing_key_file=pki / "ca.key",
        root_ca_file=pki / "ca.crt",
        service_account_private_key_file=pki / "sa.key",
        use_service_account_credentials=True,
        leader_elect=False,
    )
    scheduler = command(
        program("kube-scheduler"), kubeconfig=pki / "scheduler.conf", leader_elect=False
    )
    return Program("kube-controller-manager", manager), Program("kube-scheduler", scheduler)


def _containerd(settings: Settings, pause: str) -> Program:
    path = settings.config / "containerd.toml"
    cni = settings.config / "cni"
    registries = settings.config / "registries"
    address = f"http://{settings.registry}"
    # Without CAP_SYS_RESOURCE (in a container or a small virtual machine), the OOM score cannot be
    # lowered, and every sandbox would fail.
    config = f"""version = 2
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{pause}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{registries}"
"""
    hosts = f'server = "{address}"\n[host."{address}"]\n  capabilities = ["pull", "resolve"]\n'
    probe = ["ctr", "--address", CONTAINERD, "version"]
    return Program(
        "containerd",
        command("containerd", config=path),
        ready=lambda: "Server:" in on_node(settings, probe, check=False),
        files={
            path: config,
            cni / "10-bridge.conflist": json.dumps(_bridge(settings)),
            registries / settings.registry / "hosts.toml": hosts,
        },
    )


def _bridge(settings: Settings) -> dict[str, object]:
    ranges = [[{"subnet": settings.pods}]]
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]},
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "atelier", "plugins": [bridge, ports]}


def _kubelet(settings: Settings) -> Program:
    resolv = settings.config / "resolv.conf"
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "x509": {"clientCAFile": str(settings.pki / "ca.crt")},
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(settings.pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(settings.pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "resolvConf": str(resolv),
        "clusterDNS": [settings.dns],
        "clusterDomain": DOMAIN,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{settings.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "serializeImagePulls": False,
        # The disk is the developer's: evict only if it is nearly full.
        "evictionHard": {
            "imagefs.available": "2%",
            "nodefs.available": "2%",
            "memory.available": "200Mi",
        },
        "imageGCHighThresholdPercent": 100,
    }
    path = settings.config / "kubelet.yaml"
    flags = command(
        program("kubelet"),
        config=path,
        kubeconfig=settings.pki / "kubelet.conf",
        hostname_override=NODE,
        node_ip=settings.node,
    )
    names = "# Only the cluster's names: pods have no other network.\n"
    return Program("kubelet", flags, files={path: yaml.safe_dump(config), resolv: names})


def _proxy(settings: Settings) -> Program:
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(settings.pki / "proxy.conf")},
        "mode": "iptables",
        "hostnameOverride": NODE,
        "clusterCIDR": settings.pods,
        "conntrack": {"maxPerCore": 0},  # a setting of the machine, not of the node's namespace
    }
    path = settings.config / "proxy.yaml"
    flags = command(program("kube-proxy"), config=path)
    return Program("kube-proxy", flags, files={path: yaml.safe_dump(config)})


def _responds(url: str, ca: Path | None = None) -> Callable[[], bool]:
    """Return a check that a URL responds; 401 and 403 count as a response."""

    def check() -> bool:
        context = ssl.create_default_context(cafile=str(ca)) if ca else None
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(url, timeout=2):
                return True
        except urllib.error.HTTPError as error:
            return error.code in (401, 403)
        except OSError:
            return False

    return check

"""The cluster's certificate authority and its certificates."""

import base64
import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.cluster.local.settings import NODE, Settings

YEAR = dt.timedelta(days=365)
MASTERS = "system:masters"


@dataclass(frozen=True)
class Subject:
    """The subject of a certificate: `groups` in Kubernetes; `names` are DNS names or addresses."""

    name: str
    groups: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    config: bool = True  # whether it has a kubeconfig


def subjects(settings: Settings) -> dict[str, Subject]:
    """Return the subjects of all certificates, by the name of their files."""
    kubernetes = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
    api = (*kubernetes, "127.0.0.1", settings.node, settings.api_service)
    webhook = "kserve-webhook-server-service.kserve.svc"
    return {
        "admin": Subject("admin", (MASTERS,)),
        "controller-manager": Subject("system:kube-controller-manager"),
        "scheduler": Subject("system:kube-scheduler"),
        "proxy": Subject("system:kube-proxy"),
        "kubelet": Subject(f"system:node:{NODE}", ("system:nodes",), (NODE, settings.node)),
        "apiserver": Subject("kube-apiserver", names=api, config=False),
        "apiserver-kubelet": Subject("kube-apiserver-kubelet", (MASTERS,), config=False),
        "kserve-webhook": Subject("kserve-webhook", names=(webhook,), config=False),
    }


def write(settings: Settings) -> None:
    """Create missing files: the authority, service accounts' key, certificates, kubeconfigs."""
    folder = settings.pki
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if not (folder / "ca.crt").exists():
        _authority(folder)
    if not (folder / "sa.key").exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(folder / "sa.pub", _public(key))
        _write(folder / "sa.key", _private(key))
    for name, subject in subjects(settings).items():
        if not (folder / f"{name}.crt").exists():
            _certificate(folder, name, subject)
        if subject.config:
            _write(folder / f"{name}.conf", _kubeconfig(settings, name))
    _write(settings.kubeconfig, (folder / "admin.conf").read_bytes())


def _authority(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(Subject("atelier-cluster"))
    builder = _dated(name, name, key).add_extension(x509.BasicConstraints(True, None), True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    _write(folder / "ca.key", _private(key))
    _write(folder / "ca.crt", _signed(builder.add_extension(usage, True), key))


def _certificate(folder: Path, name: str, subject: Subject) -> None:
    ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = _dated(_name(subject), ca.subject, key).add_extension(uses, False)
    if subject.names:
        alternatives = x509.SubjectAlternativeName([_general(name) for name in subject.names])
        builder = builder.add_extension(alternatives, False)
    _write(folder / f"{name}.key", _private(key))
    _write(folder / f"{name}.crt", _signed(builder, ca_key))  # last: `write` checks only this file


def _dated(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + YEAR)
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(subject: Subject) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in subject.groups]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, subject.name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _kubeconfig(settings: Settings, name: str) -> bytes:
    """Return a kubeconfig with embedded certificates, so that it can be copied."""

    def data(file: str) -> str:
        return base64.b64encode((settings.pki / file).read_bytes()).decode()

    cluster = {"server": settings.api, "certificate-authority-data": data("ca.crt")}
    user = {
        "client-certificate-data": data(f"{name}.crt"),
        "client-key-data": data(f"{name}.key"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "atelier", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "atelier", "context": {"cluster": "atelier", "user": name}}],
        "current-context": "atelier",
    }
    return yaml.safe_dump(config).encode()


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically; only its owner can read it."""
    new = path.with_suffix(path.suffix + ".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    new.replace(path)

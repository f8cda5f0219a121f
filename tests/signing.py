"""Keys and packages for tests of signatures."""

from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from atelier.adapter.package import Package, write_package
from atelier.adapter.signature import key_of
from atelier.adapter.signers import PublicKey
from atelier.data.manifest import BaseRef

BASE = "sha256:" + "b" * 64


def private_key(curve: ec.EllipticCurve | None = None, password: str | None = None) -> bytes:
    """A new private key as PEM."""
    locked = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    made = ec.generate_private_key(curve or ec.SECP256R1())
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)


def signer(pem: bytes, name: str = "ci") -> PublicKey:
    """Its public half, trusted by a name."""
    return PublicKey(name, key_of(pem).pem)


def package(folder: Path, seed: int, **lineage: str) -> Package:
    """A package small enough to be written a hundred times."""
    random = np.random.default_rng(seed)
    key = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {
        f"{key}.lora_A.weight": random.normal(size=(2, 8)).astype(np.float32),
        f"{key}.lora_B.weight": random.normal(size=(8, 2)).astype(np.float32),
    }
    base = BaseRef(id="tiny", digest=BASE)
    return write_package(folder, tensors, name="thor-cat", base=base, alpha=2.0, **lineage)

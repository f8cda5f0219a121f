"""An adapter on disk: a folder that is accepted whole or refused with the reason.

The folder holds `manifest.json` and the files it names, nothing else. What is opened here has been
checked byte for byte; whether its shapes fit a base is the engine's to say.
"""

import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from atelier.adapter.low_rank import LoraWeights, header_metadata, nominal, pair_up
from atelier.adapter.safetensors_file import Array, read_header, read_tensors, write_tensors
from atelier.data.manifest import FILES_OF_KIND, BaseRef, FileName, Kind, Manifest
from atelier.errors import AdapterRejected
from atelier.files import replace_folder, sha256_bytes, sha256_file, write_atomic
from atelier.validation import summary

MANIFEST = "manifest.json"
ADAPTER: FileName = "adapter.safetensors"
EMBEDDINGS: FileName = "embeddings.safetensors"
_MANIFEST_BYTES = 2**20


@dataclass(frozen=True)
class Package:
    """A verified adapter folder."""

    path: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, path: Path, *, digest: str | None = None) -> "Package":
        """Verify the folder `path`; with `digest`, also that it is exactly that package."""
        path = Path(path)
        try:
            manifest = _read_manifest(path)
            if digest is not None and digest != manifest.digest:
                raise AdapterRejected(
                    f"{path}: is package {manifest.digest}, not {digest}; fetch it again from the "
                    "registry"
                )
            _check_files(path, manifest)
            package = cls(path, manifest, manifest.digest)
            package._check_content()
        except OSError as error:  # it was removed, or the disk failed, while it was read
            raise AdapterRejected(f"{path}: cannot be read ({error.strerror})") from error
        return package

    def lora(self) -> dict[str, LoraWeights]:
        """The low-rank pairs by canonical module (`unet.….to_q`), sorted; empty without any."""
        file = self.path / ADAPTER
        if ADAPTER not in self.manifest.files:
            return {}
        return pair_up(read_tensors(file), read_header(file).metadata, place=str(file))

    def embeddings(self) -> dict[str, Array]:
        """`clip_l` and `clip_g`, each [tokens, width]; empty without any."""
        if EMBEDDINGS not in self.manifest.files:
            return {}
        return read_tensors(self.path / EMBEDDINGS)

    def _check_content(self) -> None:
        lora, manifest = self.lora(), self.manifest
        if ADAPTER in manifest.files:
            if not lora:
                raise AdapterRejected(f"{self.path / ADAPTER}: holds no tensors; train it again")
            rank, _ = nominal(lora)
            alphas = {one.alpha for one in lora.values() if one.rank == rank}
            if manifest.rank != rank or not np.isclose(manifest.alpha, list(alphas)).any():
                raise AdapterRejected(
                    f"{self.path}: {MANIFEST} says rank {manifest.rank} and alpha "
                    f"{manifest.alpha:g}, the tensors have {rank} and {min(alphas):g}"
                )
        embeddings = self.embeddings()
        if EMBEDDINGS in manifest.files:
            shapes = {name: value.shape for name, value in embeddings.items()}
            right = set(shapes) <= {"clip_l", "clip_g"} and all(
                len(s) == 2 for s in shapes.values()
            )
            if not shapes or not right or len({shape[0] for shape in shapes.values()}) != 1:
                raise AdapterRejected(
                    f"{self.path / EMBEDDINGS}: must hold clip_l and clip_g of as many rows each, "
                    f"has {shapes}"
                )


def write_package(
    folder: Path,
    tensors: Mapping[str, Array],
    *,
    name: str,
    base: BaseRef,
    alpha: float | None = None,
    kind: Kind = "lora",
    targets: Sequence[str] = (),
    trigger: str = "",
    class_prompt: str | None = None,
    styles: Mapping[str, str] | None = None,
    dataset: str | None = None,
    recipe: str | None = None,
    git_commit: str | None = None,
    embeddings: Mapping[str, Array] | None = None,
) -> Package:
    """Write a package to the side, verify it, and only then rename it to `folder`.

    `tensors` are LoRA factors under canonical or diffusers/PEFT keys. Their alphas are `.alpha`
    keys where those are, else `alpha` for all, else each one's rank (scale 1). Equal arguments
    give equal bytes, so the digest is reproducible.
    """
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    aside.mkdir(parents=True)
    try:
        lora = _with_alpha(pair_up(tensors, {}, place=str(folder)), tensors, alpha)
        _write_files(aside, lora, embeddings)
        rank, nominal_alpha = nominal(lora)
        try:
            manifest = Manifest(
                name=name,
                kind=kind,
                base=base,
                rank=rank,
                alpha=nominal_alpha,
                targets=tuple(targets),
                trigger=trigger,
                class_prompt=class_prompt,
                styles=dict(styles or {}),
                dataset=dataset,
                recipe=recipe,
                git_commit=git_commit,
                files={f: sha256_file(aside / f) for f in _names() if (aside / f).exists()},
            )
        except ValidationError as error:
            raise AdapterRejected(f"{folder}: {summary(error)}") from error
        write_atomic(aside / MANIFEST, manifest.canonical())
        Package.open(aside)
        replace_folder(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Package(folder, manifest, manifest.digest)


def _names() -> tuple[FileName, ...]:
    return (ADAPTER, EMBEDDINGS)


def _with_alpha(
    lora: dict[str, LoraWeights], tensors: Mapping[str, Array], alpha: float | None
) -> dict[str, LoraWeights]:
    """`alpha` for every pair, unless the tensors carry their own."""
    if alpha is None or any(name.endswith(".alpha") for name in tensors):
        return lora
    return {module: LoraWeights(one.A, one.B, float(alpha)) for module, one in lora.items()}


def _write_files(
    folder: Path, lora: Mapping[str, LoraWeights], embeddings: Mapping[str, Array] | None
) -> None:
    if lora:
        factors = {f"{module}.lora_A.weight": one.A for module, one in lora.items()}
        factors |= {f"{module}.lora_B.weight": one.B for module, one in lora.items()}
        write_tensors(folder / ADAPTER, factors, header_metadata(lora))
    if embeddings:
        write_tensors(folder / EMBEDDINGS, embeddings)


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if file.is_symlink():
        raise AdapterRejected(f"{file}: is a link; a package holds its files itself")
    if not path.is_dir():
        raise AdapterRejected(f"{path}: no such folder; a package is a folder with {MANIFEST}")
    try:
        if file.stat().st_size > _MANIFEST_BYTES:
            raise AdapterRejected(f"{file}: larger than {_MANIFEST_BYTES} bytes")
        data = file.read_bytes()
    except OSError as error:
        raise AdapterRejected(
            f"{path}: {MANIFEST} cannot be read ({error.strerror}); "
            "a package is the folder that `atelier train` or `atelier adapters import` wrote"
        ) from error
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise AdapterRejected(f"{file}: {summary(error)}") from error
    if manifest.canonical() != data:
        raise AdapterRejected(
            f"{file}: was changed after it was written (now {sha256_bytes(data)}); "
            "fetch the package again"
        )
    return manifest


def _check_files(path: Path, manifest: Manifest) -> None:
    """Exactly the named files are there, as plain files, with the named digests."""
    wanted = FILES_OF_KIND[manifest.kind]
    if set(manifest.files) != wanted:
        raise AdapterRejected(
            f"{path / MANIFEST}: names {', '.join(sorted(manifest.files)) or 'no file'}; "
            f"a package of kind {manifest.kind} has {' and '.join(sorted(wanted))}"
        )
    present = {entry.name for entry in path.iterdir()}
    extra = sorted(present - wanted - {MANIFEST})
    if extra:
        raise AdapterRejected(
            f"{path}: holds {', '.join(extra)}, which {MANIFEST} does not name; remove what is not "
            "the adapter's"
        )
    for name, digest in manifest.files.items():
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise AdapterRejected(f"{file}: missing, or not a plain file; fetch the package again")
        read_header(file)  # says "a pickle" where it is one, before its digest is looked at
        found = sha256_file(file)
        if found != digest:
            raise AdapterRejected(
                f"{file}: has digest {found} where {MANIFEST} says {digest}; it was changed or "
                "damaged: fetch the package again"
            )

"""Adapter packages: reading, verification and writing.

A package is a folder with `manifest.json` and the files that it names, and no others. Opening a
package verifies every byte against the manifest. The engine checks whether the shapes fit the base.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from atelier.adapter.low_rank import LoraWeights, header_metadata, nominal, pair_up
from atelier.adapter.safetensors_file import Array, Tensor, TensorFile, write_tensors
from atelier.data.manifest import FILES_OF_KIND, BaseRef, FileName, Kind, Manifest
from atelier.errors import AdapterRejected
from atelier.files import replace_folder, sha256_bytes, sha256_file, staging, write_atomic
from atelier.validation import summary

MANIFEST = "manifest.json"
ADAPTER: FileName = "adapter.safetensors"
EMBEDDINGS: FileName = "embeddings.safetensors"
_MANIFEST_BYTES = 2**20


@dataclass(frozen=True)
class Package:
    """A verified adapter folder.

    The verified files stay mapped into memory while the package is in use, so later changes to the
    folder do not affect the tensors.
    """

    path: Path
    manifest: Manifest
    digest: str
    _files: Mapping[FileName, TensorFile] = field(repr=False, compare=False)

    @classmethod
    def open(cls, path: Path, *, digest: str | None = None) -> "Package":
        """Verify the folder `path` and, if given, the package's `digest`.

        Reads every file once, block by block. Raises AdapterRejected with the reason if the package
        is invalid.
        """
        path = Path(path)
        try:
            manifest = _read_manifest(path)
            if digest is not None and digest != manifest.digest:
                raise AdapterRejected(
                    f"{path}: contains package {manifest.digest} instead of {digest}; fetch it "
                    "again from the registry"
                )
            package = cls(path, manifest, manifest.digest, _verified(path, manifest))
            package._check_content()
        except OSError as error:  # the file was removed during reading, or the disk fails
            raise AdapterRejected(
                f"{path}: cannot be read ({error.strerror}); fetch the package again"
            ) from error
        return package

    def lora(self) -> dict[str, LoraWeights]:
        """Return the low-rank pairs by canonical module (`unet.….to_q`), sorted; may be empty."""
        file = self._files.get(ADAPTER)
        if file is None:
            return {}
        return pair_up(file.tensors, file.metadata, place=str(file.path))

    def embeddings(self) -> dict[str, Array]:
        """Return `clip_l` and `clip_g`, float32 [tokens, width] each; may be empty."""
        file = self._files.get(EMBEDDINGS)
        return {name: np.array(value) for name, value in file.tensors.items()} if file else {}

    def publish(self, final: Path) -> "Package":
        """Rename the folder to `final`, on the same file system, without verifying it again."""
        replace_folder(self.path, final)
        return replace(self, path=final)

    def _check_content(self) -> None:
        lora, manifest = self.lora(), self.manifest
        if ADAPTER in manifest.files:
            if not lora:
                raise AdapterRejected(
                    f"{self.path / ADAPTER}: contains no tensors; train the adapter again"
                )
            rank, _ = nominal(lora)
            alphas = {pair.alpha for pair in lora.values() if pair.rank == rank}
            if manifest.rank != rank or not np.isclose(manifest.alpha, list(alphas)).any():
                raise AdapterRejected(
                    f"{self.path}: {MANIFEST} gives rank {manifest.rank} and alpha "
                    f"{manifest.alpha:g}, but the tensors have {rank} and {min(alphas):g}; fetch "
                    "the package again"
                )
        if EMBEDDINGS in manifest.files:
            shapes = {name: value.shape for name, value in self._files[EMBEDDINGS].tensors.items()}
            right = set(shapes) <= {"clip_l", "clip_g"} and all(
                len(s) == 2 for s in shapes.values()
            )
            if not shapes or not right or len({shape[0] for shape in shapes.values()}) != 1:
                raise AdapterRejected(
                    f"{self.path / EMBEDDINGS}: must contain clip_l and clip_g with the same "
                    f"number of rows, but has {shapes}; train the adapter again"
                )


def write_package(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    name: str,
    base: BaseRef,
    alpha: float | None = None,
    kind: Kind = "lora",
    targets: Sequence[str] = (),
    trigger: str = "",
    noun: str | None = None,
    styles: Mapping[str, str] | None = None,
    dataset: str | None = None,
    held_back: Sequence[str] = (),
    recipe: str | None = None,
    git_commit: str | None = None,
    embeddings: Mapping[str, Array] | None = None,
) -> Package:
    """Write a package to a temporary folder, verify it, and rename it to `folder`.

    `tensors` are LoRA factors under canonical or diffusers/PEFT keys. The alpha of a pair is the
    value of its `.alpha` key. If no tensor is an alpha, it is `alpha`, or the rank of the pair
    (scale 1) if `alpha` is None. `noun` is the class of the subject. `held_back` are the digests of
    the pictures of `dataset` that training did not use. Equal arguments give equal bytes, so the
    digest is reproducible. Raises AdapterRejected if the package is invalid.
    """
    with staging(folder) as aside:
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
                class_=noun,
                styles=dict(styles or {}),
                dataset=dataset,
                held_back=tuple(held_back),
                recipe=recipe,
                git_commit=git_commit,
                files={f: sha256_file(aside / f) for f in _names() if (aside / f).exists()},
            )
        except ValidationError as error:
            raise AdapterRejected(f"{folder}: {summary(error)}") from error
        write_atomic(aside / MANIFEST, manifest.canonical())
        return Package.open(aside).publish(folder)


def _names() -> tuple[FileName, ...]:
    return (ADAPTER, EMBEDDINGS)


def _with_alpha(
    lora: dict[str, LoraWeights], tensors: Mapping[str, Tensor], alpha: float | None
) -> dict[str, LoraWeights]:
    """Set `alpha` on every pair, unless the tensors include alphas."""
    if alpha is None or any(name.endswith(".alpha") for name in tensors):
        return lora
    return {module: replace(pair, alpha=float(alpha)) for module, pair in lora.items()}


def _write_files(
    folder: Path, lora: Mapping[str, LoraWeights], embeddings: Mapping[str, Array] | None
) -> None:
    if lora:
        factors = {f"{module}.lora_A.weight": pair.down for module, pair in lora.items()}
        factors |= {f"{module}.lora_B.weight": pair.up for module, pair in lora.items()}
        write_tensors(folder / ADAPTER, factors, header_metadata(lora))
    if embeddings:
        write_tensors(folder / EMBEDDINGS, embeddings)


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if file.is_symlink():
        raise AdapterRejected(f"{file}: is a link; put the file itself into the package")
    if not path.is_dir():
        raise AdapterRejected(
            f"{path}: no such folder; give the folder of a package, with {MANIFEST}"
        )
    try:
        if file.stat().st_size > _MANIFEST_BYTES:
            raise AdapterRejected(
                f"{file}: larger than {_MANIFEST_BYTES} bytes; fetch the package again"
            )
        data = file.read_bytes()
    except OSError as error:
        raise AdapterRejected(
            f"{path}: {MANIFEST} cannot be read ({error.strerror}); give "
            "a folder that `atelier train` or `atelier adapters import` has written"
        ) from error
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise AdapterRejected(f"{file}: {summary(error)}") from error
    if manifest.canonical() != data:
        raise AdapterRejected(
            f"{file}: was changed after it was written (its digest is now {sha256_bytes(data)}); "
            "fetch the package again"
        )
    return manifest


def _verified(path: Path, manifest: Manifest) -> dict[FileName, TensorFile]:
    """Map the files of a package: exactly the ones in the manifest, with equal digests."""
    wanted = FILES_OF_KIND[manifest.kind]
    if set(manifest.files) != wanted:
        raise AdapterRejected(
            f"{path / MANIFEST}: names {', '.join(sorted(manifest.files)) or 'no file'}; "
            f"a package of kind {manifest.kind} has {' and '.join(sorted(wanted))}; fetch it again"
        )
    present = {entry.name for entry in path.iterdir()}
    extra = sorted(present - wanted - {MANIFEST})
    if extra:
        raise AdapterRejected(
            f"{path}: contains {', '.join(extra)}, which {MANIFEST} does not name; remove the "
            "extra files"
        )
    files = {}
    for name, digest in manifest.files.items():
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise AdapterRejected(f"{file}: missing, or not a plain file; fetch the package again")
        files[name] = TensorFile(file)  # before the digest: names a pickle as such
        files[name].verify(digest)
    return files

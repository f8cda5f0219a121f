"""An adapter on disk: a folder that is accepted whole or refused with the reason.

The folder holds `manifest.json` and the files it names, nothing else. What is opened here has been
checked byte for byte; whether its shapes fit a base is the engine's to say.
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
    """A verified adapter folder. Its tensors are those that were verified, whatever becomes of it:
    the files stay mapped for as long as the package is used."""

    path: Path
    manifest: Manifest
    digest: str
    _files: Mapping[FileName, TensorFile] = field(repr=False, compare=False)

    @classmethod
    def open(cls, path: Path, *, digest: str | None = None) -> "Package":
        """Verify the folder `path`; with `digest`, also that it is exactly that package.

        Reads every file once, block by block. Raises AdapterRejected with the reason.
        """
        path = Path(path)
        try:
            manifest = _read_manifest(path)
            if digest is not None and digest != manifest.digest:
                raise AdapterRejected(
                    f"{path}: is package {manifest.digest}, not {digest}; fetch it again from the "
                    "registry"
                )
            package = cls(path, manifest, manifest.digest, _verified(path, manifest))
            package._check_content()
        except OSError as error:  # it was removed, or the disk failed, while it was read
            raise AdapterRejected(f"{path}: cannot be read ({error.strerror})") from error
        return package

    def lora(self) -> dict[str, LoraWeights]:
        """The low-rank pairs by canonical module (`unet.….to_q`), sorted; empty without any."""
        file = self._files.get(ADAPTER)
        if file is None:
            return {}
        return pair_up(file.tensors, file.metadata, place=str(file.path))

    def embeddings(self) -> dict[str, Array]:
        """`clip_l` and `clip_g`, each [tokens, width]; empty without any."""
        file = self._files.get(EMBEDDINGS)
        return {name: np.array(value) for name, value in file.tensors.items()} if file else {}

    def publish(self, final: Path) -> "Package":
        """Make this folder `final`, on the same file system; nothing is verified again."""
        replace_folder(self.path, final)
        return replace(self, path=final)

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
        if EMBEDDINGS in manifest.files:
            shapes = {name: value.shape for name, value in self._files[EMBEDDINGS].tensors.items()}
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
    tensors: Mapping[str, Tensor],
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
        return Package.open(aside).publish(folder)


def _names() -> tuple[FileName, ...]:
    return (ADAPTER, EMBEDDINGS)


def _with_alpha(
    lora: dict[str, LoraWeights], tensors: Mapping[str, Tensor], alpha: float | None
) -> dict[str, LoraWeights]:
    """`alpha` for every pair, unless the tensors carry their own."""
    if alpha is None or any(name.endswith(".alpha") for name in tensors):
        return lora
    return {module: replace(one, alpha=float(alpha)) for module, one in lora.items()}


def _write_files(
    folder: Path, lora: Mapping[str, LoraWeights], embeddings: Mapping[str, Array] | None
) -> None:
    if lora:
        factors = {f"{module}.lora_A.weight": one.down for module, one in lora.items()}
        factors |= {f"{module}.lora_B.weight": one.up for module, one in lora.items()}
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


def _verified(path: Path, manifest: Manifest) -> dict[FileName, TensorFile]:
    """The files, mapped: exactly the named ones are there, as plain files, as they were written."""
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
    files = {}
    for name, digest in manifest.files.items():
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise AdapterRejected(f"{file}: missing, or not a plain file; fetch the package again")
        files[name] = TensorFile(file)  # says "a pickle" where it is one, whatever its digest
        files[name].verify(digest)
    return files

"""Addresses and indices of artifacts: what is no address, and what reaches outside its folder."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from atelier.data.names import ArtifactRef
from atelier.errors import BadInput, Unavailable
from atelier.files import digest_folder
from atelier.retry import patiently
from atelier.stores.artifacts import Index, known_as

HEX = "0123456789abcdef" * 4


def test_an_address_is_read_as_it_is_written() -> None:
    ref = ArtifactRef.of("bases", f"sha256:{HEX}")
    assert str(ref) == f"mlflow://bases/{HEX}"
    assert ArtifactRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://bases/{HEX}",
        f"mlflow://base/{HEX}",
        "mlflow://bases/",
        "mlflow://bases/../../etc",
        f"mlflow://bases/{HEX}/unet",
        f"mlflow://bases/{HEX}\n",
        f"bases/{HEX}",
    ],
)
def test_what_is_no_address_is_told_how_one_reads(uri: str) -> None:
    with pytest.raises(
        BadInput, match="the form is mlflow://bases/<hex>, the kinds are bases, vaes"
    ):
        ArtifactRef.parse(uri)


def test_an_index_has_the_digest_of_its_folder(tmp_path: Path) -> None:
    for name in ("a.json", "unet/b.bin", "unet/deep/ü.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    index = Index.read(tmp_path, [file for file in tmp_path.rglob("*") if file.is_file()])
    assert index.digest == digest_folder(tmp_path)
    assert index.size == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", ".", "a//b", "./a"])
def test_an_index_stays_in_its_folder(path: str) -> None:
    text = json.dumps({"files": {path: {"size": 1, "sha256": f"sha256:{HEX}"}}})
    with pytest.raises(ValidationError, match="not a path inside"):
        Index.model_validate_json(text)


def test_a_model_is_known_with_its_revision() -> None:
    assert known_as("owner/model") == "owner/model"
    assert known_as("owner/model", "v2") == "owner/model@v2"


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls, messages = [0.0], [0], list[str]()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def away() -> int:
        calls[0] += 1
        if calls[0] < 4:
            raise Unavailable("away")
        return calls[0]

    assert patiently(away, seconds=60, on_retry=messages.append) == 4
    assert messages == ["away (again in 5 s)"] * 3
    calls[0] = -1000
    with pytest.raises(Unavailable):
        patiently(away, seconds=20)
    assert now[0] == 3 * 5 + 20 - 5 + 5

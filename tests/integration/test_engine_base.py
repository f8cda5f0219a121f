"""Bases: what cannot be served is refused with the name of what is wrong."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from atelier.errors import BadInput, BaseError, PolicyError
from atelier.stores.base_files import base_digest
from pipelines.evaluate.judge import _engine as judging
from pipelines.evaluate.scorers import Scorers
from services.engine import Engine, EngineSettings, load_base, settings
from services.engine.backends import BACKENDS
from services.engine.base import vae_dtype
from services.engine.local import local_engine
from tests.judged import tiny_scorers


@pytest.fixture
def broken(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "base"))


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_base_knows_its_own_size_and_rules(tiny_model: Path) -> None:
    base = load_base(tiny_model)
    assert (base.size, base.reduction, base.dtype) == (64, 8, torch.float32)
    assert base.force_zeros_for_empty_prompt
    assert not any(p.requires_grad for p in base.unet.parameters())
    assert not base.unet.training


def test_what_is_missing_is_named(broken: Path) -> None:
    (broken / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(BaseError, match="text_encoder_2"):
        load_base(broken)
    with pytest.raises(BaseError, match="no such folder"):
        load_base(broken / "nothing")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"addition_embed_type": None}, "not a UNet of SDXL"),
        ({"time_cond_proj_dim": 16}, "guidance"),
    ],
)
def test_another_architecture_is_named(broken: Path, change: dict, said: str) -> None:
    edit(broken / "unet" / "config.json", **change)
    with pytest.raises(BaseError, match=said):
        load_base(broken)


def test_an_unknown_scheduler_is_named(broken: Path) -> None:
    edit(broken / "model_index.json", scheduler=["diffusers", "MagicScheduler"])
    with pytest.raises(BaseError, match="MagicScheduler"):
        load_base(broken)


def test_a_vae_may_be_replaced_and_the_digest_tells(tiny_model: Path, broken: Path) -> None:
    base = load_base(tiny_model, vae=str(broken / "vae"))
    assert base.vae_digest is not None
    assert base.digest == load_base(tiny_model).digest


def test_the_settings_name_the_backends_that_there_are() -> None:
    assert tuple(BACKENDS) == settings.BACKENDS


def test_a_device_that_is_not_here_is_bad_input(tiny_model: Path) -> None:
    with pytest.raises(BadInput, match=r"device cuda:99: torch finds \d+ GPUs on this machine"):
        Engine.load(tiny_model, settings=EngineSettings(device="cuda:99"))


def test_commands_and_verdicts_obey_the_variables_that_a_server_obeys(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_SLOTS", "3")
    monkeypatch.setenv("ATELIER_INFLIGHT", "2")
    monkeypatch.setenv("ATELIER_PRECISION", "bf16")
    wanted = EngineSettings(slots=3, inflight=2, precision="bf16")
    with local_engine([], str(tiny_model)) as running:
        assert running.engine.settings == wanted
        assert running.engine.base.dtype == torch.bfloat16
    with judging(tiny_model, None, Path(), None) as engine:
        assert engine.settings == wanted
        assert engine.base.dtype == torch.bfloat16


def test_a_vae_that_overflows_in_half_precision_runs_in_full(broken: Path) -> None:
    folder = broken / "vae"
    edit(folder / "config.json", force_upcast=True)
    assert vae_dtype(torch.float16, folder) == torch.float32
    assert vae_dtype(torch.bfloat16, folder) == torch.bfloat16
    edit(folder / "config.json", force_upcast=False)
    assert vae_dtype(torch.float16, folder) == torch.float16


def as_pickle(folder: Path) -> Path:
    """Put the weights of a component into a file that is unpickled, as older programs wrote it."""
    (weights,) = folder.glob("*.safetensors")
    pickled = folder / {"model": "pytorch_model.bin"}.get(weights.stem, f"{weights.stem}.bin")
    torch.save(load_file(weights), pickled)
    weights.unlink()
    return pickled


@pytest.mark.parametrize("component", ["text_encoder_2", "vae"])
def test_a_component_in_a_pickle_is_refused_and_converted_by_what_the_refusal_says(
    tiny_model: Path, broken: Path, component: str
) -> None:
    as_pickle(broken / component)
    with pytest.raises(BaseError, match=rf"base .*: {component}: .*only \S+\.bin") as caught:
        load_base(broken)
    command = shlex.split(str(caught.value).partition("convert it once, ")[2].partition(": ")[2])
    subprocess.run([sys.executable, *command[1:]], check=True)
    converted, original = load_base(broken), load_base(tiny_model)
    ours, theirs = (getattr(base, component).state_dict() for base in (converted, original))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_vae_of_its_own_in_a_pickle_is_refused(tiny_model: Path, broken: Path) -> None:
    as_pickle(broken / "vae")
    with pytest.raises(BaseError, match=r"vae .*only diffusion_pytorch_model\.bin"):
        load_base(tiny_model, vae=str(broken / "vae"))


@pytest.mark.parametrize("named", ["adapter_model.bin", "other.safetensors"])
def test_weights_that_only_a_configuration_names_are_not_loaded(broken: Path, named: str) -> None:
    """transformers follows `transformers_weights`; the digest does not cover what it names."""
    folder = broken / "text_encoder"
    state = {name: value + 1 for name, value in load_file(folder / "model.safetensors").items()}
    if named.endswith(".bin"):
        torch.save(state, folder / named)
    else:
        shutil.copy(folder / "model.safetensors", folder / named)
    edit(folder / "config.json", transformers_weights=named)
    with pytest.raises(BaseError, match=rf"{folder}: not a CLIPTextModel"):
        load_base(broken)


def test_sharded_weights_are_loaded_and_every_shard_counts(tiny_model: Path, broken: Path) -> None:
    whole = UNet2DConditionModel.from_pretrained(tiny_model / "unet", use_safetensors=True)
    (broken / "unet/diffusion_pytorch_model.safetensors").unlink()
    whole.save_pretrained(broken / "unet", max_shard_size=whole.num_parameters() * 2)
    shards = sorted((broken / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    base = load_base(broken)
    ours, theirs = base.unet.state_dict(), whole.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for shard in shards:
        data = shard.read_bytes()
        shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert base_digest(broken) != base.digest
        shard.write_bytes(data)


def test_a_base_of_links_is_the_same_base(tiny_model: Path, tmp_path: Path) -> None:
    """As the hub's cache keeps it: links to files that have other names."""
    for number, file in enumerate(sorted(f for f in tiny_model.rglob("*") if f.is_file())):
        stored = tmp_path / "blobs" / str(number)
        stored.parent.mkdir(exist_ok=True)
        shutil.copy(file, stored)
        link = tmp_path / "snapshot" / file.relative_to(tiny_model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(stored)
    assert load_base(tmp_path / "snapshot").digest == base_digest(tiny_model)


def test_a_scorer_in_a_pickle_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    names = tiny_scorers(tmp_path, tiny_model / "tokenizer")
    digests = Scorers(names).digests
    (Path(names["clip"]) / "README.md").write_text("is not loaded")
    assert Scorers(names).digests == digests
    pickled = as_pickle(Path(names["dino"]))
    with pytest.raises(PolicyError, match=rf"scorers\.dino: .*only {pickled.name}"):
        Scorers(names)

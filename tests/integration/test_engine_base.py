"""Bases: what cannot be served is refused with the name of what is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from atelier.errors import BadInput, BaseError
from commands.serve.local_engine import local_engine
from pipelines.evaluate.judge import _engine as judging
from services.engine import Engine, EngineSettings, load_base, settings
from services.engine.backends import BACKENDS
from services.engine.base import vae_dtype


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
    [({"addition_embed_type": None}, "not SDXL's"), ({"time_cond_proj_dim": 16}, "guidance")],
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
    with pytest.raises(BadInput, match=r"device cuda:99: torch sees \d+ GPUs here"):
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

"""`atelier compile`: keyed by what it is made from, checked against torch, whole or not there."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner, Result

from atelier.data.names import ArtifactRef
from atelier.errors import BadInput, Refused
from atelier.files import sha256_file
from atelier.stores.artifacts import Artifacts
from commands.main import app
from pipelines.compile.check import TOLERANCE, check
from pipelines.compile.request import CompileRequest
from pipelines.compile.samples import random_bank, random_call
from pipelines.compile.tensorrt import bank_shapes, call_shapes
from pipelines.compile.unet import compile_unet, spec_of
from services.engine import Base, Engine, EngineSettings, load_base
from services.engine.backends.compiled import (
    INPUTS,
    MANIFEST,
    BankShape,
    Compiled,
    CompileSpec,
    bank_names,
)
from services.engine.backends.onnxruntime import OnnxBackend
from services.engine.backends.protocol import bank_inputs
from services.engine.backends.tensorrt import load_tensorrt
from services.engine.backends.torch import TorchBackend
from services.engine.layout import layout_of


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Base:
    return load_base(tiny_model)


@pytest.fixture(scope="module")
def compiled(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Read only: damage a copy."""
    output = tmp_path_factory.mktemp("compile") / "compiled"
    return compile_unet(CompileRequest(str(tiny_model), device="cpu"), output=output)


@pytest.fixture
def copy(compiled: Compiled, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled.folder, tmp_path / "copy"))


def atelier_compile(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compile", *map(str, arguments)])


def settings(folder: Path, **others: object) -> EngineSettings:
    return EngineSettings(
        backend="onnx",
        compiled=str(folder),
        device="cpu",
        **others,  # type: ignore[arg-type]
    )


def test_the_graph_that_is_exported_computes_what_the_torch_backend_computes(
    base: Base, compiled: Compiled
) -> None:
    layout = layout_of(base)
    bank = random_bank(base, layout, slots=3, max_rank=6, ranks=(2, 6))
    graph, backend = OnnxBackend(compiled, layout, base.device), TorchBackend(base, layout)
    for size, slots in (((8, 8), [2, 0, 1, 2]), ((5, 9), [1]), ((8, 4), [0, 0])):
        call = random_call(base, size, slots, torch.Generator().manual_seed(2))
        with torch.inference_mode():
            found = graph.denoise(*call.tensors, slots, bank)
            wanted = backend.denoise(*call.tensors, slots, bank)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_the_bank_is_a_handful_of_inputs_that_nothing_is_copied_for(
    base: Base, compiled: Compiled
) -> None:
    layout = layout_of(base)
    model = onnx.load(compiled.file(".onnx"), load_external_data=False)
    bank_of_graph = [i.name for i in model.graph.input if i.name.startswith("bank")]
    assert bank_of_graph == list(bank_names(layout))
    assert len(bank_of_graph) < len(layout.of("unet")) / 4
    bank = random_bank(base, layout, slots=3, max_rank=6, ranks=(2, 6))
    for slots, rank in (([1, 0], 2), ([2], 6), ([0], 0)):
        for tensor in bank_inputs(bank.view(slots), layout):
            assert tensor.shape[0] == rank and tensor.is_contiguous()
            assert not rank or tensor.data_ptr() in {t.data_ptr() for t in (*bank._A, *bank._B)}


def test_the_same_again_is_the_same_and_something_else_has_another_key(
    base: Base, compiled: Compiled, tiny_model: Path
) -> None:
    written = (compiled.folder / MANIFEST).stat().st_mtime_ns
    again = compile_unet(CompileRequest(str(tiny_model), device="cpu"), output=compiled.folder)
    assert again.digest == compiled.digest
    assert (compiled.folder / MANIFEST).stat().st_mtime_ns == written
    half = load_base(tiny_model, dtype=torch.float16)
    assert spec_of(CompileRequest("any"), base).key == compiled.spec.key
    assert spec_of(CompileRequest("any"), half).key != compiled.spec.key
    assert compiled.manifest.error < 1e-4


def test_a_graph_whose_numbers_differ_is_refused(copy: Path, base: Base) -> None:
    """One weight of one layer of 92 is off."""
    file = copy / "unet.onnx"
    model = onnx.load(file)
    weight = next(
        one for one in model.graph.initializer if one.name.endswith("attn1.to_out.0.bias")
    )
    values = onnx.numpy_helper.to_array(weight) + np.float32(0.5)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    for old in copy.iterdir():
        if old.name != MANIFEST:
            old.unlink()
    onnx.save_model(model, file)
    edit(copy, files={file.name: sha256_file(file)})
    changed, layout = Compiled.open(copy), layout_of(base)
    backend = OnnxBackend(changed, layout, base.device)
    with pytest.raises(Refused, match="differ from torch by"):
        check(backend, base, layout, changed.spec, lambda *_: None)
    assert TOLERANCE["fp32"] < 0.01


def test_what_is_refused_leaves_nothing_behind(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(TOLERANCE, "fp32", 0.0)  # which sums in another order cannot keep
    refused = atelier_compile(tiny_model, "--device", "cpu", "--output", tmp_path / "out")
    assert refused.exit_code == 1
    assert "differ from torch by" in refused.stderr
    assert not list(tmp_path.iterdir())


def edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_what_is_damaged_or_made_for_something_else_is_not_served(
    copy: Path, tiny_model: Path
) -> None:
    def refused(match: str, **others: object) -> None:
        with pytest.raises(BadInput, match=match):
            Engine.load(tiny_model, settings=settings(copy, **others))

    refused("compiled for precision fp32, but this engine has bf16", precision="bf16")
    spec = json.loads((copy / MANIFEST).read_text())["spec"]
    edit(copy, spec={**spec, "base": "sha256:" + "0" * 64})
    refused("compiled for base sha256:0000")
    edit(copy, spec={**spec, "graph": 2})
    refused(r"spec\.graph: .* compile the UNet again")
    edit(copy, spec=spec)
    data = bytearray((copy / "unet.onnx.data").read_bytes())
    data[100] ^= 1
    (copy / "unet.onnx.data").write_bytes(data)
    refused("unet.onnx.data: missing or damaged")
    shutil.rmtree(copy)
    refused("contains no compiled UNet")
    with pytest.raises(BadInput, match="ATELIER_COMPILED"):
        Engine.load(tiny_model, settings=EngineSettings(backend="onnx", device="cpu"))


def test_the_engine_digest_covers_the_compiled_files(
    compiled: Compiled, copy: Path, tiny_model: Path
) -> None:
    model = onnx.load(copy / "unet.onnx", load_external_data=False)
    model.producer_name = "another"  # computes the same
    onnx.save_model(model, copy / "unet.onnx")
    files = json.loads((copy / MANIFEST).read_text())["files"]
    edit(copy, files={**files, "unet.onnx": sha256_file(copy / "unet.onnx")})
    one, other = (
        Engine.load(tiny_model, settings=settings(folder)) for folder in (compiled.folder, copy)
    )
    assert one.describe() != other.describe() and one.digest != other.digest
    assert one.digest == Engine.load(tiny_model, settings=settings(compiled.folder)).digest


def test_it_goes_through_the_registry(
    compiled: Compiled,
    copy: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Put by one, fetched by the next, which compiles nothing."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for output in (copy, tmp_path / "fetched"):
        asked = ("--device", "cpu", "--output", output, "--registry", "--json")
        made = atelier_compile(tiny_model, *asked)
        assert made.exit_code == 0, made.stderr
        told = json.loads(made.stdout)
        assert told["uri"] == f"mlflow://engines/{compiled.spec.key}"
        assert told["digest"] == compiled.digest and told["registered"]
        assert "exporting" not in made.stderr
    assert Artifacts(uri).exists(ArtifactRef("engines", compiled.spec.key))
    Engine.load(tiny_model, settings=settings(tmp_path / "fetched"))


def test_the_verb_says_where_it_lies_and_how_it_is_served(
    compiled: Compiled, copy: Path, tiny_model: Path
) -> None:
    made = atelier_compile(tiny_model, "--device", "cpu", "--output", copy, "--json")
    assert made.exit_code == 0, made.stderr
    told = json.loads(made.stdout)
    assert told["key"] == compiled.spec.key and told["digest"] == compiled.digest
    assert told["uri"] == f"mlflow://engines/{compiled.spec.key}" and told["compiled"] == str(copy)
    assert told["spec"]["backend"] == "onnx" and told["error"] < TOLERANCE["fp32"]


def test_the_verb_takes_the_folder_of_tensorrt_from_its_setting(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What loads it needs a GPU, so here the request ends where the compilation would begin."""
    requests: list[CompileRequest] = []

    def stop(request: CompileRequest, **_: object) -> Compiled:
        requests.append(request)
        raise BadInput("no further")

    monkeypatch.setattr("pipelines.compile.unet.compile_unet", stop)
    monkeypatch.setenv("ATELIER_TENSORRT", "/opt/tensorrt")
    asked = ("--backend", "tensorrt", "--output", tmp_path / "out")
    assert atelier_compile(tiny_model, *asked).exit_code == 2
    assert [request.tensorrt for request in requests] == ["/opt/tensorrt"]


def test_the_shapes_that_tensorrt_is_told_are_those_of_a_call(base: Base) -> None:
    """The engine is built on a GPU alone; what its profiles are made of is known here."""
    layout = layout_of(base)
    spec = CompileSpec(
        backend="tensorrt",
        base=base.digest,
        precision="fp32",
        bank=BankShape(rank=6, slots=3),
        batches=(1, 4),
        sizes=((8, 8), (4, 10)),
        versions={},
    )
    assert spec.profiles == ((1, (8, 8)), (1, (4, 10)), (4, (8, 8)), (4, (4, 10)))
    bank = random_bank(base, layout, slots=3, max_rank=6, ranks=(2, 6))
    for rows, size in spec.profiles:
        call = random_call(base, size, [0] * rows, torch.Generator().manual_seed(0))
        inputs = bank_inputs(bank.view(call.slots, rank=6), layout)
        shapes = [*(tuple(t.shape) for t in call.tensors), (rows,)]
        assert dict(zip(INPUTS, shapes, strict=True)) == call_shapes(base, rows, size)
        shapes = [tuple(tensor.shape) for tensor in inputs]
        assert dict(zip(bank_names(layout), shapes, strict=True)) == bank_shapes(spec, layout)


def test_tensorrt_is_loaded_or_the_way_to_it_is_told() -> None:
    try:
        trt = load_tensorrt(EngineSettings.read().tensorrt)
    except BadInput as error:
        with pytest.raises(BadInput, match="ATELIER_TENSORRT"):
            load_tensorrt("/nowhere")
        pytest.skip(str(error))
    assert int(trt.__version__.split(".")[0]) >= 10
    assert trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED is not None
    assert trt.ExecutionContextAllocationStrategy.USER_MANAGED is not None
    for owner, names in (
        (trt.IExecutionContext, ("set_device_memory", "set_input_shape", "execute_async_v3")),
        (trt.ICudaEngine, ("get_device_memory_size_for_profile_v2", "create_execution_context")),
        (trt.IBuilderConfig, ("add_optimization_profile", "clear_flag")),
        (trt.Builder, ("build_serialized_network", "create_optimization_profile")),
        (trt.OnnxParser, ("parse_from_file", "get_error")),
    ):
        assert all(hasattr(owner, name) for name in names), owner


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sizes", "64"], "WIDTHxHEIGHT"),
        (["--batch", "2"], "omit them"),
        (["--precision", "bf16"], "use fp16 or fp32"),
        (["--precision", "fp8"], "precision fp8: must be one of auto, fp32, fp16, bf16"),
        (["--device", "gpu"], "device gpu: must be auto, cpu, cuda or cuda:N"),
        (["--backend", "tensorrt", "--device", "cpu"], "needs the NVIDIA GPU"),
    ],
)
def test_what_cannot_be_compiled_is_bad_input(
    tiny_model: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
) -> None:
    output = tmp_path / "compiled"
    refused = atelier_compile(tiny_model, "--output", output, *arguments)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert not output.exists()


def test_a_folder_of_other_things_is_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(BadInput, match="contains other files"):
        compile_unet(CompileRequest(str(tiny_model), device="cpu"), output=tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "dear reader"

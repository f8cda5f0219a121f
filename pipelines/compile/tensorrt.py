"""Builds a TensorRT engine from the exported graph, on a GPU of the kind that will run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atelier.errors import Refused
from pipelines.compile.onnx import FILE, WEIGHTS
from services.engine.backends.compiled import CompileSpec, bank_names
from services.engine.backends.tensorrt import load_tensorrt
from services.engine.base import Base
from services.engine.layout import Layout
from services.engine.scheduling import Shape

PLAN = "unet.plan"


def build(
    folder: Path, spec: CompileSpec, base: Base, layout: Layout, *, tensorrt: str | None = None
) -> None:
    """Build PLAN from the graph in `folder`, and delete the graph.

    The network is strongly typed: every tensor has its type in the graph, which is the dtype of the
    base. Raises Refused with TensorRT's reason if it cannot parse or build the graph.
    """
    trt = load_tensorrt(tensorrt)
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(folder / FILE)):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise Refused(
            f"TensorRT {trt.__version__} cannot parse the graph: {reasons}; use a later TensorRT"
        )
    bank = bank_shapes(spec, layout)
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if tensor.name in bank:
            tensor.shape = bank[tensor.name]  # fixed, so TensorRT can choose the best kernels
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # compute fp32 in full precision
    for rows, size in spec.profiles:
        config.add_optimization_profile(
            _profile(builder, {**call_shapes(base, rows, size), **bank})
        )
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Refused(
            f"TensorRT {trt.__version__} built no engine; see the messages of TensorRT above"
        )
    (folder / PLAN).write_bytes(plan)
    for file in (FILE, WEIGHTS):
        (folder / file).unlink()


def call_shapes(base: Base, rows: int, size: Shape) -> dict[str, tuple[int, ...]]:
    """Return the input shapes of a UNet call, except the bank; `size` is of the latents."""
    config = base.unet.config
    return {
        "latents": (rows, config.in_channels, *size),
        "timesteps": (rows,),
        "text": (rows, base.tokenizer.model_max_length, config.cross_attention_dim),
        "pooled": (rows, base.text_encoder_2.config.projection_dim),
        "time_ids": (rows, 6),
        "slots": (rows,),
    }


def bank_shapes(spec: CompileSpec, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the bank's inputs: [rank, layers, slots + 1, features].

    The additional slot is slot 0, the base.
    """
    assert spec.bank is not None
    groups = [layout.groups[i] for i in layout.groups_of("unet")]
    features = [side for group in groups for side in (group.in_features, group.out_features)]
    layers = [group.layers for group in groups for _ in range(2)]
    return {
        name: (spec.bank.rank, count, spec.bank.slots + 1, width)
        for name, count, width in zip(bank_names(layout), layers, features, strict=True)
    }


def _profile(builder: Any, shapes: dict[str, tuple[int, ...]]) -> Any:
    profile = builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, min=shape, opt=shape, max=shape)
    return profile

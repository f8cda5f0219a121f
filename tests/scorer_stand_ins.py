"""Small networks with the interfaces of the real scorers, for tests.

The "face" of the stand-in detector is a red square, and red is the subject of the stand-in saliency
network, so that a test can draw pictures with a known answer.
"""

import json
from pathlib import Path

import numpy as np

from pipelines.evaluate.scorers.alignment import SIDE, TEMPLATE
from pipelines.evaluate.scorers.copy_descriptor import (
    COUNTER,
    WEIGHTS,
    CopyConfig,
    copy_network,
)
from pipelines.evaluate.scorers.yunet import STRIDES

RED = (255, 0, 0)
DETECTED = 640  # pixels, each way, that the stand-in detector looks at
FACE = 64  # pixels of every face that it finds, of its own


def tiny_copy_scorer(folder: Path) -> str:
    """A random SSCD of one block a stage."""
    import torch

    from atelier.adapter.safetensors_file import write_tensors

    config = CopyConfig(layers=(1, 1, 1, 1), features=16, size=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = copy_network(config).state_dict()
    folder.mkdir(parents=True)
    arrays = {name: value.numpy() for name, value in weights.items() if COUNTER not in name}
    write_tensors(folder / WEIGHTS, arrays)
    (folder / "config.json").write_text(config.model_dump_json())
    return str(folder)


def tiny_faces(folder: Path) -> str:
    """A detector of red squares with YuNet's outputs, and an embedder with SFace's input."""
    folder.mkdir(parents=True)
    _detector(folder / "detector.onnx")
    _embedder(folder / "embedder.onnx")
    return str(folder)


def tiny_saliency(folder: Path, *, logits: bool = False) -> str:
    """A network with U²-Net's input whose subject is whatever is red."""
    from onnx import helper

    folder.mkdir(parents=True)
    weights = np.array([8.0, -8.0, 0.0], dtype=np.float32).reshape(1, 3, 1, 1)
    nodes = [helper.make_node("Conv", ["pixels", "weights"], ["map"])]
    if not logits:
        nodes.append(helper.make_node("Sigmoid", ["map"], ["probability"]))
    output = "map" if logits else "probability"
    _save(
        folder / "saliency.onnx",
        nodes,
        ("pixels", [1, 3, 320, 320]),
        {output: [1, 1, 320, 320]},
        {"weights": weights},
    )
    if logits:
        (folder / "saliency.json").write_text(json.dumps({"logits": True}))
    return str(folder)


def _detector(file: Path) -> None:
    """One face in each cell of the coarsest grid that is wholly red; blue is the first channel."""
    from onnx import helper

    stride = STRIDES[-1]
    red = np.array([-1, -1, 1], dtype=np.float32).reshape(1, 3, 1, 1) / 255
    weights = {"red": np.tile(red / stride**2, (1, 1, stride, stride)), "column": _shape(1, -1, 1)}
    nodes = [
        helper.make_node("Conv", ["input", "red"], ["mean"], strides=[stride, stride]),
        helper.make_node("Reshape", ["mean", "column"], ["score"]),
        helper.make_node("Identity", ["score"], [f"cls_{stride}"]),
        helper.make_node("Identity", ["score"], [f"obj_{stride}"]),
    ]
    outputs = {}
    for each in STRIDES:
        cells = (DETECTED // each) ** 2
        # In cells of the stride, from the cell's corner: a face around the middle of the cell.
        box = np.array([0.5, 0.5, np.log(FACE / each), np.log(FACE / each)])
        points = 0.5 + (TEMPLATE / SIDE - 0.5) * FACE / each
        constants = {"bbox": box, "kps": points.ravel()}
        if each != stride:
            constants |= {"cls": np.zeros(1), "obj": np.zeros(1)}
        for kind, values in constants.items():
            name, rows = f"{kind}_{each}", np.tile(values, (1, cells, 1)).astype(np.float32)
            weights[f"{name}_rows"] = rows
            nodes.append(helper.make_node("Identity", [f"{name}_rows"], [name]))
        for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            outputs[f"{kind}_{each}"] = [1, cells, width]
    _save(file, nodes, ("input", [1, 3, DETECTED, DETECTED]), outputs, weights)


def _embedder(file: Path) -> None:
    """The mean colours of sixteen squares of the face."""
    from onnx import helper

    pool = {"kernel_shape": [28, 28], "strides": [28, 28]}
    nodes = [
        helper.make_node("AveragePool", ["data"], ["squares"], **pool),
        helper.make_node("Flatten", ["squares"], ["fc1"]),
    ]
    _save(file, nodes, ("data", [1, 3, SIDE, SIDE]), {"fc1": [1, 48]}, {})


def _shape(*sizes: int) -> np.ndarray:
    return np.array(sizes, dtype=np.int64)


def _save(
    file: Path,
    nodes: list,
    given: tuple[str, list[int]],
    outputs: dict[str, list[int]],
    weights: dict[str, np.ndarray],
) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, given[1])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, file)

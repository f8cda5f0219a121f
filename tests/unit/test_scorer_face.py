"""A face is found, turned upright and described, whatever its place, size and angle."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from atelier.errors import PolicyError
from pipelines.evaluate.scorers.alignment import SIDE, TEMPLATE, aligned, similarity_transform
from pipelines.evaluate.scorers.face import Faces
from pipelines.evaluate.scorers.files import located
from pipelines.evaluate.scorers.yunet import OUTPUTS, Face, decoded, distinct, overlap
from tests.scorer_stand_ins import FACE, RED, tiny_faces


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_faces(tmp_path_factory.mktemp("scorers") / "faces"))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Faces:
    return Faces(located("face", str(folder)), "cpu")


def with_faces(side: int, *boxes: tuple[int, int, int]) -> Image.Image:
    """A picture with red squares, each at x, y with a side."""
    picture = Image.new("RGB", (side, side), (40, 40, 40))
    for x, y, length in boxes:
        picture.paste(RED, (x, y, x + length, y + length))
    return picture


def test_a_cell_is_decoded_into_the_box_and_the_landmarks_in_pixels() -> None:
    side, stride, cell = 64, 16, 6  # column 2 of row 1
    outputs = {
        name: np.zeros((1, (side // int(name.split("_")[1])) ** 2, width))
        for name in OUTPUTS
        for width in [{"cls": 1, "obj": 1, "bbox": 4, "kps": 10}[name.split("_")[0]]]
    }
    outputs[f"cls_{stride}"][0, cell] = 0.81
    outputs[f"obj_{stride}"][0, cell] = 1.5  # counts as 1
    outputs[f"bbox_{stride}"][0, cell] = [0.5, 0.25, np.log(2), 0]
    outputs[f"kps_{stride}"][0, cell] = np.arange(10) / 10
    (face,) = decoded(outputs, side)
    assert face.score == pytest.approx(0.9)
    assert face.box == pytest.approx((2.5 * 16 - 16, 1.25 * 16 - 8, 32, 16))
    assert face.landmarks[0] == pytest.approx([2 * 16, 1.1 * 16])
    assert face.landmarks[4] == pytest.approx([2.8 * 16, 1.9 * 16])
    outputs[f"obj_{stride}"][0, cell] = 0.4  # the geometric mean is below the least score
    assert decoded(outputs, side) == []


def face(left: float, score: float) -> Face:
    return Face((left, 0, 10, 10), np.zeros((5, 2)), score)


def test_overlapping_boxes_are_one_face() -> None:
    assert overlap(face(0, 1), face(0, 1)) == pytest.approx(1)
    assert overlap(face(0, 1), face(5, 1)) == pytest.approx(1 / 3)
    assert overlap(face(0, 1), face(30, 1)) == 0
    found = distinct([face(0, 0.7), face(2, 0.9), face(30, 0.8), face(8, 0.65)])
    assert [(one.box[0], one.score) for one in found] == [(2, 0.9), (30, 0.8), (8, 0.65)]


@pytest.mark.parametrize("degrees", [0, 30, 170])
def test_a_similarity_is_recovered_and_never_a_reflection(degrees: float) -> None:
    angle, scale, offset = np.radians(degrees), 1.7, np.array([12.0, -5.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix, moved = similarity_transform(TEMPLATE, scale * TEMPLATE @ turn.T + offset)
    np.testing.assert_allclose(matrix, scale * turn, atol=1e-9)
    np.testing.assert_allclose(moved, offset, atol=1e-9)
    mirrored, _ = similarity_transform(TEMPLATE, TEMPLATE * [-1, 1])
    assert np.linalg.det(mirrored) > 0


def test_landmarks_come_to_their_places() -> None:
    """A picture with a bright spot at each landmark, turned and enlarged."""
    angle = np.radians(25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = 2.5 * TEMPLATE @ turn.T + [180, 40]
    y, x = np.mgrid[0:400, 0:400]
    light = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 18) for px, py in landmarks)
    picture = Image.fromarray((light * 255).clip(0, 255).astype(np.uint8)).convert("RGB")
    upright = np.asarray(aligned(picture, landmarks).convert("L"), dtype=float)
    assert upright.shape == (SIDE, SIDE)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    for px, py in TEMPLATE:
        near = upright * ((columns - px) ** 2 + (rows - py) ** 2 < 25)
        centre = (near * columns).sum() / near.sum(), (near * rows).sum() / near.sum()
        assert centre == pytest.approx((px, py), abs=0.15)


def test_faces_are_found_in_pictures_of_any_size_the_largest_first(scorer: Faces) -> None:
    small, large = (64, 64, FACE), (320, 320, 2 * FACE)
    found = scorer.detect(with_faces(640, small, large))
    assert len(found) > 1
    assert found[0].area == pytest.approx((2 * FACE) ** 2)  # found at half the size
    left, top, width, height = found[0].box
    assert (left + width / 2, top + height / 2) == pytest.approx((384, 384), abs=2 * FACE)
    twice = scorer.detect(with_faces(1280, (128, 128, 2 * FACE)))
    assert twice[0].box[2] in {2 * FACE, 4 * FACE}
    assert scorer.detect(Image.new("RGB", (300, 200))) == []


def test_features_tell_faces_apart_and_no_face_has_none(scorer: Faces) -> None:
    red = with_faces(640, (128, 128, 2 * FACE))
    moved = with_faces(640, (384, 384, 2 * FACE))
    green = red.copy()
    green.paste((0, 255, 0), (170, 170, 180, 260))  # beside the centre: still a face
    one, same, other, none = scorer.faces([red, moved, green, Image.new("RGB", (64, 64))])
    assert none is None
    assert one is not None and same is not None and other is not None
    assert np.linalg.norm(one) == pytest.approx(1)
    assert one @ same == pytest.approx(1, abs=1e-4)
    assert one @ other < one @ same - 0.01


def changed(folder: Path, into: Path, name: str) -> Path:
    into.mkdir()
    for file in folder.iterdir():
        (into / file.name).write_bytes(file.read_bytes())
    return into / name


def told(folder: Path) -> str:
    with pytest.raises(PolicyError, match=r"scorers\.face: ") as caught:
        Faces(located("face", str(folder)), "cpu")
    return str(caught.value)


def test_other_networks_are_refused_with_the_right_ones(folder: Path, tmp_path: Path) -> None:
    detector = changed(folder, tmp_path / "a", "detector.onnx")
    detector.write_bytes((folder / "embedder.onnx").read_bytes())
    assert "has the outputs fc1, not cls_8" in told(detector.parent)
    embedder = changed(folder, tmp_path / "b", "embedder.onnx")
    embedder.write_bytes((folder / "detector.onnx").read_bytes())
    assert "embedder.onnx does not take faces of 112 pixels" in told(embedder.parent)
    broken = changed(folder, tmp_path / "c", "embedder.onnx")
    broken.write_bytes(b"broken")
    assert "embedder.onnx: " in told(broken.parent)
    assert "use OpenCV's face_recognition_sface_2021dec.onnx" in told(broken.parent)
    missing = changed(folder, tmp_path / "d", "embedder.onnx")
    missing.unlink()
    assert "has no embedder.onnx; a scorer of faces needs detector.onnx and" in told(missing.parent)


def test_weights_outside_of_the_file_are_refused(folder: Path, tmp_path: Path) -> None:
    """The digest covers the file, and nothing that it names."""
    embedder = changed(folder, tmp_path / "a", "detector.onnx")
    model = onnx.load(folder / "detector.onnx")
    onnx.save(model, embedder, save_as_external_data=True, location="beside", size_threshold=0)
    assert "detector.onnx: " in told(embedder.parent)

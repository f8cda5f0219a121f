"""Trainings that share a home: two processes that need the same class pictures."""

from pathlib import Path

from tests.tiny import tiny_base
from tests.together import together

# Both begin to draw before either has finished: `told` comes after the look for finished pictures.
DRAW = """
from pathlib import Path
from pipelines.train.prior import ClassPictures, class_pictures
from services.engine import Engine, EngineSettings, load_base

place = Path(sys.argv[1])
base = load_base(place / "base")
engine = Engine(base, EngineSettings(slots=2, max_rank=4, max_batch=16, device="cpu"))
wanted = ClassPictures(
    base.digest, None, "float32", "a photo of a cat", count=2, size=64, seed=0, steps=1
)
drawn = []

def told(done, of):
    (folder,) = (place / "cache").iterdir()
    (folder / ".00000.0123abcd").mkdir(exist_ok=True)  # as a killed training leaves one
    start()

def used():
    drawn.append(1)
    return engine

found = class_pictures(wanted, place / "cache", used, told, lambda: None)
print(len(drawn), len(found.pictures), found.digest)
"""


def test_two_trainings_draw_their_class_pictures_once(tmp_path: Path) -> None:
    tiny_base(tmp_path / "base")
    first, second = (line.split() for line in together(DRAW, tmp_path))
    assert first[1:] == second[1:]
    assert first[1] == "2"
    assert int(first[0]) + int(second[0]) == 1
    (folder,) = (tmp_path / "cache").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [".lock", "00000", "wanted.json"]

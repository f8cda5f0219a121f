"""Folders that several processes write at once: real processes, started together."""

from pathlib import Path

from PIL import Image

from tests.together import together

SAVE = """
from pathlib import Path
from PIL import Image
from pipelines.evaluate.renderer import save

image = Image.new("RGB", (256, 256), sys.argv[2])
start()
for _ in range(150):
    save(image, Path(sys.argv[1]))
"""

PUBLISH = """
from pathlib import Path
from atelier.files import replace_folder

final, name = Path(sys.argv[1]), sys.argv[2]
start()
for turn in range(150):
    aside = final.with_name(f"{name}-{turn}")
    aside.mkdir()
    (aside / "both").write_text(name)
    (aside / name).write_text(name)
    replace_folder(aside, final)
"""

LOCK = """
from pathlib import Path
from atelier.files import locked

folder = Path(sys.argv[1])
counter = folder.with_name("counter")
start()
for _ in range(300):
    with locked(folder / ".lock", temporary=True):
        counter.write_text(str(int(counter.read_text()) + 1))
"""

VERDICT = """
from pathlib import Path
from PIL import Image
from pipelines.evaluate.judge import _write
from atelier.data.manifest import BaseRef, Manifest
from pipelines.evaluate.measures import Pair, ReferenceSet
from pipelines.evaluate.prompt_set import PromptCase
from tests.judged import evaluation, policy

output, name = Path(sys.argv[1]), sys.argv[2]
image = Image.new("RGB", (64, 64), name)
pairs = [Pair(PromptCase("subject", 0, "a cat", "a cat", seed), image, image) for seed in range(4)]
judged = evaluation(policy()).model_copy(update={"adapter": name})
base = BaseRef(id="base", digest=judged.base)
manifest = Manifest(name=name, base=base, rank=4, alpha=4.0, files={})
references = ReferenceSet(judged.base, [image], ["a.png"], [image], ["a.png"], [judged.base], False)
start()
for _ in range(15):
    _write(judged, manifest, pairs, references, output)
"""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_two_processes_save_one_picture(tmp_path: Path) -> None:
    """Two verdicts that draw the same picture of the base keep it in one cache."""
    picture = tmp_path / "cache" / "picture.png"
    together(SAVE, picture)
    with Image.open(picture) as saved:
        assert saved.convert("RGB").getpixel((0, 0)) in ((255, 0, 0), (0, 0, 255))
    assert names(picture.parent) == ["picture.png"]


def test_two_processes_publish_one_folder(tmp_path: Path) -> None:
    final = tmp_path / "final"
    together(PUBLISH, final)
    (winner,) = {"red", "blue"} & set(names(final))
    assert (final / "both").read_text() == winner
    assert names(tmp_path) == ["final"]


def test_a_lock_that_leaves_no_file_excludes_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    folder = tmp_path / "folder"
    together(LOCK, folder)
    assert (tmp_path / "counter").read_text() == "600"
    assert names(folder) == []


def test_two_verdicts_in_one_folder_never_mix(tmp_path: Path) -> None:
    output = tmp_path / "evaluation"
    together(VERDICT, output)
    said = (output / "evaluation.json").read_text()
    winner = "red" if '"adapter": "red"' in said else "blue"
    colour = {"red": (255, 0, 0), "blue": (0, 0, 255)}[winner]
    pictures = list((output / "pictures").iterdir())
    assert len(pictures) == 8
    for file in pictures:
        with Image.open(file) as picture:
            assert picture.convert("RGB").getpixel((0, 0)) == colour, file.name

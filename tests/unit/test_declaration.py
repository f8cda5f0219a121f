"""What git says serves."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atelier.data.declaration import Declaration, DeclarationError, Declarations, Withdrawn
from atelier.data.release import Canary, Pin, Release
from atelier.errors import Refused

ONE, TWO, THREE, BASE = (f"sha256:{digit * 64}" for digit in "123b")


def declared(**more: object) -> Declaration:
    return Declaration.model_validate(
        {"adapter": "thor-cat", "version": 2, "digest": TWO, "base": BASE, "reason": "so"} | more
    )


@pytest.fixture
def place(tmp_path: Path) -> Declarations:
    (tmp_path / "k8s/environments/production/adapters").mkdir(parents=True)
    return Declarations(tmp_path, "production")


REASONS = st.text(min_size=1, max_size=80).filter(str.strip)
DECLARATIONS = st.builds(
    lambda reason, canary, replaces, vae, withdrawn: declared(
        reason=reason,
        canary=canary and Canary(version=3, digest=THREE, percent=canary),
        replaces=Pin(version=1, digest=ONE) if replaces else None,
        vae=THREE if vae else None,
        withdrawn=[Withdrawn(version=1, digest=ONE, reason=why) for why in withdrawn],
    ),
    REASONS,
    st.none() | st.integers(1, 100),
    st.booleans(),
    st.booleans(),
    st.lists(REASONS, max_size=3),
)


@example(there=declared(reason="one\x85two\u2028three"))
@given(DECLARATIONS)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, there: Declaration
) -> None:
    file = tmp_path_factory.getbasetemp() / "thor-cat.yaml"
    file.write_text(there.to_yaml(), encoding="utf-8")
    assert Declaration.load(file) == there


@settings(deadline=None, max_examples=50)
@given(DECLARATIONS, DECLARATIONS, st.sets(st.integers(0, 9)))
def test_a_rewritten_file_keeps_the_comments_before_its_keys(
    tmp_path_factory: pytest.TempPathFactory, old: Declaration, new: Declaration, places: set[int]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "k8s/environments/staging/adapters"
    folder.mkdir(parents=True, exist_ok=True)
    place = Declarations(folder.parents[3], "staging")
    notes, lines, keys = [], [], 0
    for line in old.to_yaml().splitlines():
        if line[0].isalpha():  # a key of the whole
            if keys in places:
                notes.append(f"# note {keys}")
                lines.append(notes[-1])
            keys += 1
        lines.append(line)
    notes.append("# the end")
    place.path("thor-cat").write_text("\n".join([*lines, "# the end\n"]), encoding="utf-8")
    assert place.get("thor-cat") == old
    text = place.put(new).read_text(encoding="utf-8")
    assert place.get("thor-cat") == new
    assert [line for line in text.splitlines() if line.startswith("# ")][2:] == notes


def test_a_folder_of_declarations(place: Declarations) -> None:
    assert place.list() == {} and place.find("thor-cat") is None
    place.put(declared())
    assert place.list() == {"thor-cat": declared()}
    with pytest.raises(
        DeclarationError, match=r"ghost is not declared in production; declared are thor-cat"
    ):
        place.get("ghost")
    place.path("ghost").write_text(declared().to_yaml())
    with pytest.raises(DeclarationError, match=r"ghost.yaml: is the declaration of thor-cat"):
        place.get("ghost")
    place.remove("ghost")
    place.remove("ghost")
    assert list(place.list()) == ["thor-cat"]


def test_an_environment_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "k8s/environments/staging").mkdir(parents=True)
    with pytest.raises(DeclarationError, match="no such environment; known are staging"):
        Declarations(tmp_path, "producton")


def test_mistakes_are_named_where_they_are(place: Declarations) -> None:
    place.path("thor-cat").write_text(declared().to_yaml().replace("reason: so", "raeson: so"))
    with pytest.raises(DeclarationError, match=r"thor-cat.yaml:7: raeson: unknown key.*reason"):
        place.get("thor-cat")


def test_a_canary_is_another_version() -> None:
    with pytest.raises(ValueError, match="is the serving version already"):
        declared(canary=Canary(version=2, digest=TWO, percent=10))


def test_what_was_withdrawn_does_not_come_back() -> None:
    gone = [Withdrawn(version=3, digest=THREE, reason="greyish cats")]
    declared(withdrawn=gone).require_wanted()
    with pytest.raises(Refused, match=r"thor-cat@3: was withdrawn here \(greyish cats\)"):
        declared(version=3, digest=THREE, withdrawn=gone).require_wanted()
    canary = Canary(version=3, digest=THREE, percent=10)
    with pytest.raises(Refused, match="withdrawn"):
        declared(canary=canary, withdrawn=gone).require_wanted()


def test_live_is_what_serves_not_how_it_came_to() -> None:
    live = Release(adapter="thor-cat", version=2, digest=TWO, base=BASE, revision=7)
    assert declared(reason="another").is_live(live)
    assert not declared(version=3, digest=THREE).is_live(live)
    assert not declared(vae=ONE).is_live(live)
    assert not declared(canary=Canary(version=3, digest=THREE, percent=10)).is_live(live)


def test_what_this_checkout_declares_can_be_read() -> None:
    root = Path(__file__).parents[2]
    for folder in (root / "k8s/environments").iterdir():
        Declarations(root, folder.name).list()

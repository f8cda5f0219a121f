"""The contact sheet shows every picture in its place."""

import numpy as np
from PIL import Image

from pipelines.evaluate import GateResult
from pipelines.evaluate.evaluation import GateState
from pipelines.evaluate.measures import Pair
from pipelines.evaluate.prompt_set import PromptCase, Role, prompt_set
from pipelines.evaluate.sheet import GAP, LABEL, LINE, TILE, contact_sheet
from pipelines.evaluate.worst import prompts
from tests.judged import NOUN, TRIGGER, evaluation, policy, replaced


def test_base_above_adapter_seeds_side_by_side_and_training_pictures_last() -> None:
    colours = iter(np.linspace(20, 230, 12).astype(int).tolist())
    pairs = [
        Pair(
            PromptCase("subject", prompt, f"prompt {prompt}", "", seed),
            Image.new("RGB", (64, 48), (next(colours), 0, 0)),
            Image.new("RGB", (64, 48), (0, next(colours), 0)),
        )
        for prompt in range(3)
        for seed in range(2)
    ]
    training = [Image.new("RGB", (30, 90), (0, 0, blue)) for blue in (90, 180)]
    sheet = contact_sheet(evaluation(policy()), pairs, training)
    rows = [
        [sheet.getpixel((LABEL + column * (TILE + GAP) + TILE // 2, y)) for column in range(6)]
        for y in (sheet.height - GAP - TILE // 2 - GAP - step for step in _up_from_the_bottom())
    ]
    assert rows[0][:2] == [(0, 0, 90), (0, 0, 180)]
    assert rows[1] == [pair.adapter.getpixel((0, 0)) for pair in pairs]
    assert rows[2] == [pair.base.getpixel((0, 0)) for pair in pairs]


def _up_from_the_bottom() -> tuple[int, int, int]:
    """Where training pictures, the adapter's and the base's rows lie, in pixels from the first."""
    row, title = TILE + GAP, 18 + GAP
    return 0, row + title, 2 * row + title


def test_a_title_too_long_for_its_place_is_cut() -> None:
    words = "a very long prompt that goes on and on and will not fit " * 4
    pair = Pair(PromptCase("subject", 0, words, "", 0), _plain(), _plain())
    beside = Pair(PromptCase("subject", 1, "short", "", 0), _plain(), _plain())
    sheet = contact_sheet(evaluation(policy()), [pair, beside], [])
    bottom = sheet.height - GAP - 2 * (TILE + GAP)  # where the title's line ends
    second = LABEL + TILE + GAP
    assert _dark(sheet.crop((LABEL, bottom - 18, second - GAP, bottom)))
    assert not _dark(sheet.crop((second - GAP, bottom - 18, second, bottom)))
    assert _dark(sheet.crop((second, bottom - 18, second + 40, bottom)))


def test_a_prompt_of_the_class_lies_beside_one_of_the_subject() -> None:
    red, green = (Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 200, 0)))
    colours: list[tuple[Role, Image.Image]] = [("subject", red), ("class", green)]
    pairs = [
        Pair(PromptCase(role, 0, role, "", seed), image, image)
        for role, image in colours
        for seed in range(6)
    ]
    sheet = contact_sheet(evaluation(policy()), pairs, [])
    y = sheet.height - GAP - TILE // 2
    row = [sheet.getpixel((LABEL + column * (TILE + GAP) + 9, y)) for column in range(8)]
    assert row == [(200, 0, 0)] * 4 + [(0, 200, 0)] * 4  # four of the six seeds each


def gate(state: GateState, **changes: object) -> GateResult:
    said = {
        "name": "drift", "kind": "max", "value": 0.3, "threshold": 0.25, "ci": None,
        "state": state, "pictures": ("pictures/unrelated-0-seed-1.png",),
    }  # fmt: skip
    return GateResult.model_validate(said | changes)


def test_the_worst_picture_of_each_gate_comes_first_failures_before_the_rest() -> None:
    under = policy()
    cases = prompt_set(under, trigger=TRIGGER, noun=NOUN, seeds=range(2))
    pairs = [
        Pair(case, Image.new("RGB", (8, 8), (60 * index, 0, 0)), Image.new("RGB", (8, 8)))
        for index, case in enumerate(cases)
    ]
    passed = gate("passed", name="effect", pictures=("pictures/subject-0-seed-1.png",))
    again = gate("open", name="text", pictures=("pictures/unrelated-0-seed-1.png",))
    one = evaluation(under).model_copy(update={"gates": (passed, again, gate("failed"))})
    sheet = contact_sheet(one, pairs, [])
    top = GAP + 4 * LINE + GAP + LINE  # below the heading, three gates and the titles
    y = top + TILE + GAP + TILE // 2
    row = [sheet.getpixel((LABEL + column * (TILE + GAP) + 9, y)) for column in range(3)]
    assert row == [(180, 0, 0), (60, 0, 0), (255, 255, 255)]


def test_near_misses_and_the_ceiling_are_marked() -> None:
    near = gate("passed", name="subject", value=0.2, ci=(0.15, 0.249))
    assert near.near
    with_ceiling = evaluation(policy()).measures.references.model_copy(
        update={"likeness": {"subject": 0.9}}
    )
    plain = evaluation(policy()).model_copy(update={"gates": (near,)})
    measures = plain.measures.model_copy(update={"references": with_ceiling})
    without = contact_sheet(plain, [], [])
    shown = contact_sheet(plain.model_copy(update={"measures": measures}), [], [])
    assert shown.height == without.height + LINE
    line = np.asarray(shown.crop((0, GAP + LINE, shown.width, GAP + 2 * LINE))).astype(int)
    darkest = line.reshape(-1, 3)[line.sum(axis=2).argmin()]
    assert darkest[0] > darkest[1] > darkest[2], "neither green nor red, but amber"


def test_seeds_are_ordered_from_the_worst_to_the_best() -> None:
    under = policy(seeds={"first": 3, "most": 3})
    one = replaced(replaced(evaluation(under), 1, subject=0.2), 5, drift=0.9)
    cases = prompt_set(under, trigger=TRIGGER, noun=NOUN, seeds=range(3))
    pairs = [Pair(case, _plain(), _plain()) for case in cases]
    roles: tuple[Role, ...] = ("subject", "unrelated")
    seeds = [[pair.case.seed for pair in prompts(pairs, one, role)[0]] for role in roles]
    assert seeds == [[1, 0, 2], [2, 0, 1]]


def _dark(part: Image.Image) -> bool:
    """Whether anything is written there."""
    return int(np.asarray(part).min()) < 128


def _plain() -> Image.Image:
    return Image.new("RGB", (16, 16), (10, 10, 10))

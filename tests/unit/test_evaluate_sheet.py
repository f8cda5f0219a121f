"""The contact sheet shows every picture in its place."""

import numpy as np
from PIL import Image

from pipelines.evaluate.measures import Pair
from pipelines.evaluate.prompt_set import PromptCase
from pipelines.evaluate.sheet import GAP, LABEL, TILE, contact_sheet
from tests.judged import evaluation, policy


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


def _dark(part: Image.Image) -> bool:
    """Whether anything is written there."""
    return int(np.asarray(part).min()) < 128


def _plain() -> Image.Image:
    return Image.new("RGB", (16, 16), (10, 10, 10))

"""The sentence: what is claimed, about which prompts, and what is said to be unknown."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from atelier.errors import BadInput
from pipelines.compare.comparison import RunComparison, common_evaluations, compare_runs
from pipelines.compare.conclusion import holm
from pipelines.compare.curves import charts, smoothed
from pipelines.compare.page import html, numbers
from pipelines.compare.runs import RunRecord, Series
from pipelines.compare.scores import KnownScatter, PairedScores
from pipelines.compare.side_by_side import Column, PictureSheet
from pipelines.compare.trainings import Scatter
from pipelines.evaluate import Evaluation
from tests.judged import GOOD, evaluation, policy, replaced

POLICY = policy(
    seeds={"first": 4, "most": 4},
    prompts={
        "subject": ["{trigger} on the beach", "{trigger} in the snow"],
        "unrelated": ["a red robot"],
    },
)
PER_PROMPT = 4


def scored(
    subject: Sequence[float], drift: float = 0.1, noise: int = 0, **changes: object
) -> Evaluation:
    """An evaluation with a subject score for each prompt, and a small chance of each picture."""
    made = evaluation(POLICY, subject=GOOD, **changes)  # type: ignore[arg-type]
    rng = np.random.default_rng(noise)
    for index in range(len(made.measures.pictures)):
        chance = float(rng.normal(0, 0.01))
        role, prompt = made.measures.pictures[index].role, index // PER_PROMPT
        if role == "subject":
            made = replaced(made, index, subject=subject[prompt] + chance)
        else:
            made = replaced(made, index, drift=drift + chance)
    return made


def run(label: str, judged: Evaluation | None, *, steps: int = 10, seed: int = 0) -> RunRecord:
    params = {"adapter": "cat", "train.steps": str(steps), "train.seed": str(seed)}
    loss = Series((1, 2, 3), (3.0, 2.0, 1.0))
    return RunRecord(label, params, {}, {"loss": loss}, None, (judged,) if judged else ())


def compared(*runs: RunRecord, known: dict[str, Scatter] | None = None) -> RunComparison:
    found = common_evaluations(runs)
    return compare_runs(
        runs, sheet=None, evaluations=found, known=known or {}, sources=["a file"] if known else []
    )  # type: ignore[arg-type]


def sentence(*runs: RunRecord, known: dict[str, Scatter] | None = None) -> str:
    return compared(*runs, known=known).conclusion.sentence


SHORT = run("short", scored([0.5, 0.5]))
LONG = run("long", scored([0.55, 0.85], noise=1), steps=20)


def test_one_training_each_is_claimed_for_these_trainings_only() -> None:
    said = sentence(SHORT, LONG)
    assert said.startswith("long is better than short on subject fidelity (DINO) (by 0.")
    assert "on every prompt" in said
    assert "for these trainings only: whether the recipes differ is unknown" in said


def test_the_order_of_the_runs_does_not_change_the_winner() -> None:
    assert sentence(LONG, SHORT).startswith("long is better than short on subject fidelity")


def test_the_prompt_with_the_difference_is_named() -> None:
    said = sentence(SHORT, run("other", scored([0.5, 0.8], noise=1), steps=20))
    assert "most on “sks cat in the snow”" in said and "beach" not in said


def test_better_and_worse_are_both_said() -> None:
    said = sentence(SHORT, run("other", scored([0.8, 0.8], drift=0.3, noise=1), steps=20))
    assert "other is better than short on subject fidelity" in said
    assert "but worse on drift of unrelated prompts (by 0.2" in said


def test_no_difference_is_said_plainly() -> None:
    said = sentence(SHORT, run("other", scored([0.5, 0.5], noise=1), steps=20))
    assert said.startswith("No difference between other and short is sure")


def test_the_scatter_of_repeats_is_counted_in_and_can_take_the_claim_back() -> None:
    short = [
        run(f"short-{i}", scored([0.5 + d] * 2, noise=i), seed=i) for i, d in enumerate((0, 0.3))
    ]
    long = [
        run(f"long-{i}", scored([0.6 + d] * 2, noise=i + 2), steps=20, seed=i)
        for i, d in enumerate((0, 0.3))
    ]
    alone = sentence(short[0], long[0])
    assert alone.startswith("long-0 is better than short-0")
    found = compared(*short, *long)
    assert [group.runs for group in found.groups] == [(0, 1), (2, 3)]
    assert found.conclusion.sentence.startswith(
        "No difference between long-0 with 1 repeat and short-0 with 1 repeat is sure"
    )
    assert (
        "with the scatter between trainings included, estimated with 2 degrees"
        in found.conclusion.sentence
    )
    assert found.scores is not None
    assert found.scores.scatter["subject"].sd == pytest.approx(0.3 / 2**0.5, abs=0.02)
    assert found.scores.sources == ("4 of these runs",)


def test_known_scatter_stands_in_for_repeats() -> None:
    known = {name: Scatter(0.5, 0.5, 3) for name in ("subject", "text", "drift")}
    said = sentence(SHORT, LONG, known=known)
    assert said.startswith("No difference") and "3 degrees of freedom" in said
    small = {name: Scatter(0.001, 0.001, 30) for name in ("subject", "text", "drift")}
    assert sentence(SHORT, LONG, known=small).startswith("long is better")


def test_repeats_alone_rank_nothing_and_show_their_scatter() -> None:
    found = compared(SHORT, run("again", scored([0.6, 0.6], noise=1), seed=1))
    assert "are repeats of one recipe" in found.conclusion.sentence
    assert "in subject fidelity (DINO)" in found.conclusion.sentence
    assert found.scores is not None and not found.scores.rivals and len(found.scores.each) == 1


def test_runs_without_a_common_policy_are_not_ranked() -> None:
    other = scored([0.5, 0.5]).model_copy(update={"policy": "sha256:" + "f" * 64})
    for without in (other, scored([0.5, 0.5]).model_copy(update={"scorer_digests": {"clip": "x"}})):
        found = compared(SHORT, run("other", without, steps=20))
        assert found.scores is None and "cannot be ranked" in found.conclusion.sentence


def test_holm_holds_for_all_claims_together() -> None:
    assert holm({"a": 0.01, "b": 0.02, "c": 0.9}, 0.05) == {"a", "b"}
    assert holm({"a": 0.03, "b": 0.04, "c": 0.9}, 0.05) == set()


def test_only_common_pictures_are_paired() -> None:
    fewer = evaluation(POLICY, seeds=2)
    paired = PairedScores.of([evaluation(POLICY), fewer])
    assert [rows.shape for rows in paired.values["subject"]] == [(2, 2), (2, 2)]
    assert paired.prompts["subject"] == ("sks cat on the beach", "sks cat in the snow")
    assert "consistency" not in paired.values


def test_the_numbers_of_a_comparison_of_repeats_are_a_known_scatter(tmp_path: Path) -> None:
    found = compared(SHORT, run("again", scored([0.6, 0.6], noise=1), seed=1))
    file = tmp_path / "compare.json"
    file.write_text(json.dumps(numbers(found)))
    assert found.scores is not None
    assert KnownScatter.load(file, POLICY.digest) == found.scores.scatter
    with pytest.raises(BadInput, match="under policy"):
        KnownScatter.load(file, "sha256:" + "f" * 64)
    file.write_text(json.dumps(numbers(compared(SHORT, LONG))))
    with pytest.raises(BadInput, match="compare repeats"):
        KnownScatter.load(file, POLICY.digest)


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_it_shows() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    sheet = PictureSheet((Column("<b>", False, (pixels,)),), (("a <script> cat", 0),))
    runs = [run("<i>a", scored([0.5, 0.5])), LONG]
    page = html(compare_runs(runs, sheet=sheet, evaluations=common_evaluations(runs), known={}))
    assert "<script" not in page and "<i>a" not in page and "a &lt;script&gt; cat" in page
    assert (
        "http:" not in page
        and "https:" not in page
        and "url(" not in page
        and 'src="data:image/png;base64,' in page
    )
    assert page.count("<polyline") == 2
    assert "train.steps" in page and 'class="mark">20<' in page


def test_a_run_without_values_at_all_has_no_chart() -> None:
    bare = RunRecord("a", {}, {}, {}, None)
    assert charts([bare, bare]) == []
    nan = RunRecord("b", {}, {}, {"loss": Series((1, 2), (float("nan"), 1.0))}, None)
    (chart,) = charts([nan])
    assert "nan" not in chart.lines[0].points


def test_a_smoothed_curve_keeps_its_mean_level_and_its_last_step() -> None:
    series = Series(tuple(range(1, 121)), tuple([1.0, 3.0] * 60))
    found = smoothed(series)
    assert found.steps[-1] == 120 and found.values == pytest.approx([2.0] * len(found.values))

"""Two recipes: what the interval covers if trainings scatter, and what one training cannot say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.compare.trainings import Scatter, Values, by_prompt, difference, pooled, scatter
from pipelines.evaluate.intervals import mean_interval

PROMPTS, SEEDS = 4, 4
TRUE = 0.1  # the difference of the recipes


def drawn(
    rng: np.random.Generator,
    trainings: tuple[int, int],
    *,
    between: float,
    pictures: float,
    shared: float = 0.0,
) -> tuple[Values, Values]:
    """Values of two recipes, of which the second is better by TRUE on average.

    `between` is the scatter of trainings, `pictures` the chance of one picture of one training, and
    `shared` the effect of a picture's seed on all trainings of one recipe.
    """
    hard = rng.normal(0, 0.3, (PROMPTS, 1, SEEDS))  # of a picture for everyone: pairing removes it
    sides = []
    for count, mean in zip(trainings, (0.5, 0.5 + TRUE), strict=True):
        values = mean + hard + rng.normal(0, between, (1, count, 1))
        values = values + rng.normal(0, shared, (PROMPTS, 1, SEEDS))
        sides.append(list(values + rng.normal(0, pictures, (PROMPTS, count, SEEDS))))
    return sides[0], sides[1]


def coverage(
    times: int, trainings: tuple[int, int], known: float | None = None, **how: float
) -> float:
    """The share of simulated comparisons whose interval has the recipes' true difference."""
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(times):
        first, second = drawn(rng, trainings, **how)  # type: ignore[arg-type]
        told = scatter([first, second])
        if known is not None:  # estimated from four repeats, as a file of an earlier comparison
            sds = rng.normal(0, known, 4).std(ddof=1)
            told = Scatter(float(sds), float(sds), 3)
        found = difference(first, second, told)
        assert found.ci is not None
        hits += found.ci[0] <= TRUE <= found.ci[1]
    return hits / times


@pytest.mark.parametrize(
    ("trainings", "how"),
    [
        ((3, 3), {"between": 0.1, "pictures": 0.1}),
        ((3, 2), {"between": 0.05, "pictures": 0.2}),
        ((4, 1), {"between": 0.1, "pictures": 0.1, "shared": 0.1}),
        ((3, 3), {"between": 0.02, "pictures": 0.1, "shared": 0.2}),
        ((2, 1), {"between": 0.2, "pictures": 0.05}),  # two trainings are nearly all that is known
    ],
)
def test_with_repeats_the_interval_holds_for_the_recipes(
    trainings: tuple[int, int], how: dict[str, float]
) -> None:
    assert 0.93 <= coverage(400, trainings, **how) <= 0.999


def test_one_training_each_says_nothing_about_the_recipes_unless_the_scatter_is_known() -> None:
    how = {"between": 0.1, "pictures": 0.1}
    assert coverage(400, (1, 1), **how) < 0.6  # so the claim must be limited to these trainings
    assert 0.92 <= coverage(400, (1, 1), known=0.1, **how) <= 0.995


def test_one_training_each_is_right_about_these_two_trainings() -> None:
    assert 0.92 <= coverage(600, (1, 1), between=0.0, pictures=0.1) <= 0.98


@given(st.integers(0, 1000))
def test_single_trainings_have_the_interval_of_paired_pictures(seed: int) -> None:
    first, second = drawn(np.random.default_rng(seed), (1, 1), between=0.1, pictures=0.1)
    pairs = [(b - a)[0] for a, b in zip(first, second, strict=True)]
    expected = mean_interval(pairs, 0.95, rate=False)
    assert difference(first, second, None).ci == pytest.approx(expected)


@given(st.integers(0, 1000))
def test_swapped_recipes_differ_the_other_way(seed: int) -> None:
    first, second = drawn(np.random.default_rng(seed), (3, 2), between=0.1, pictures=0.1)
    known = scatter([first, second])
    forth, back = difference(first, second, known), difference(second, first, known)
    assert forth.ci is not None and back.ci is not None
    assert forth.delta == pytest.approx(-back.delta)
    assert forth.ci == pytest.approx((-back.ci[1], -back.ci[0]))
    assert forth.p == pytest.approx(back.p)


@given(st.integers(0, 1000), st.floats(-0.2, 0.2))
def test_the_p_value_agrees_with_the_interval(seed: int, shift: float) -> None:
    first, second = drawn(np.random.default_rng(seed), (3, 2), between=0.05, pictures=0.05)
    second = [rows - TRUE + shift for rows in second]
    found = difference(first, second, scatter([first, second]))
    assert found.ci is not None and found.p is not None
    assert (found.p < 0.05) == (not found.ci[0] <= 0 <= found.ci[1])


def test_the_scatter_is_that_of_the_trainings() -> None:
    rng = np.random.default_rng(1)
    found = [
        scatter(drawn(rng, (4, 4), between=0.1, pictures=0.04))  # 0.01 of a mean of 16 pictures
        for _ in range(200)
    ]
    sds = [each.sd for each in found if each is not None]
    assert np.sqrt(np.mean(np.square(sds))) == pytest.approx(np.hypot(0.1, 0.01), rel=0.05)
    assert {each.freedom for each in found if each is not None} == {6}
    assert scatter(drawn(rng, (1, 1), between=0.1, pictures=0.1)) is None


def test_several_scatters_are_pooled_by_their_freedom() -> None:
    assert pooled([None, None]) is None
    assert pooled([Scatter(0.1, 0.2, 2), None]) == Scatter(0.1, 0.2, 2)
    both = pooled([Scatter(0.1, 0.2, 3), Scatter(0.3, 0.2, 1)])
    assert both is not None and both.freedom == 4
    assert both.sd == pytest.approx(np.sqrt((3 * 0.01 + 0.09) / 4))


def test_a_prompt_with_its_own_difference_is_found_and_no_other() -> None:
    rng = np.random.default_rng(3)
    first, second = drawn(rng, (3, 3), between=0.0, pictures=0.02)
    second = [values - TRUE + (0.5 if number == 2 else 0) for number, values in enumerate(second)]
    found = by_prompt(first, second, scatter([first, second]))
    told = [each.ci is not None and not each.ci[0] <= 0 <= each.ci[1] for each in found]
    assert told == [False, False, True, False]


def test_one_picture_of_each_prompt_has_no_interval() -> None:
    first, second = [np.array([[0.5]])], [np.array([[0.6]])]
    found = difference(first, second, None)
    assert (found.ci, found.p) == (None, None)
    assert by_prompt(first, second, None)[0].ci is None


def test_equal_values_without_any_chance_differ_by_nothing() -> None:
    same = [np.ones((1, 4))]
    found = difference(same, same, None)
    assert found.ci == (0, 0) and found.p == 1

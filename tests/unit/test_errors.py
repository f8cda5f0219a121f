"""Every error tells the caller what to do by its kind, and the shell by its exit code."""

import pytest

from atelier import errors


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (errors.Refused, 1),
        (errors.RecipeError, 2),
        (errors.DatasetError, 2),
        (errors.PolicyError, 2),
        (errors.AdapterRejected, 2),
        (errors.BaseError, 2),
        (errors.ReleaseError, 2),
        (errors.Unavailable, 3),
        (errors.Interrupted, 143),
    ],
)
def test_exit_codes(kind: type[errors.AtelierError], exit_code: int) -> None:
    error = kind("recipe.yaml:3: what is wrong; what to do")
    assert error.exit_code == exit_code
    assert str(error) == "recipe.yaml:3: what is wrong; what to do"


def test_only_what_may_succeed_later_is_retryable() -> None:
    assert errors.Unavailable("full", retry_after=2.5).retry_after == 2.5
    assert errors.Unavailable("away").retry_after is None
    assert not issubclass(errors.BadInput, errors.Unavailable)
    assert not issubclass(errors.Unavailable, errors.BadInput)

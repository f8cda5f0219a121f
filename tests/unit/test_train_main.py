"""`python -m pipelines.train` as a Job calls it."""

import pytest

from pipelines.train.__main__ import main


@pytest.mark.parametrize("arguments", [[], ["recipe.yaml", "--deliver", "run"]])
def test_it_trains_or_delivers(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "--deliver" in capsys.readouterr().err

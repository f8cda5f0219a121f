"""The contract agrees with the files that cannot import it, and refuses what no side may send."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.contract.limits import SEEDS
from atelier.contract.request import AdapterUse, pinned
from atelier.contract.tensors import INPUTS, MODEL, OUTPUTS, signed_seed, unsigned_seed

CONFIG = Path(__file__).resolve().parents[2] / "services/triton/atelier/config.pbtxt"
_TENSOR = re.compile(r'name: "([A-Z_]+)"\s+data_type: TYPE_(\w+)')


def test_triton_declares_the_contract_s_tensors() -> None:
    text = CONFIG.read_text()
    declared = {name: kind.replace("STRING", "BYTES") for name, kind in _TENSOR.findall(text)}
    assert declared == {**INPUTS, **OUTPUTS}
    assert f'name: "{MODEL}"' in text
    optional = set(re.findall(r'name: "([A-Z_]+)"[^\n]*optional: true', text))
    assert optional == INPUTS.keys() - {"PROMPT"}


@given(st.integers(0, SEEDS - 1))
def test_every_seed_survives_v2_s_signed_integers(seed: int) -> None:
    value = signed_seed(seed)
    assert -(2**63) <= value < 2**63
    assert unsigned_seed(value) == seed


def test_an_adapter_without_a_version_is_not_pinned() -> None:
    assert pinned([AdapterUse("cat", 2), AdapterUse("dog", 1)]) == {("cat", 2), ("dog", 1)}
    with pytest.raises(ValueError, match="dog: has no version"):
        pinned([AdapterUse("cat", 2), AdapterUse("dog")])

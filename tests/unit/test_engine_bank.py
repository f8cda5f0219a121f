"""The bank: what a slot holds is what the adapters mean, exactly, and nothing of who was before."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from atelier.adapter.low_rank import LoraWeights
from atelier.errors import AdapterRejected
from services.engine.bank import Bank
from services.engine.banked import Binding, bank_projections, share
from services.engine.layout import Layout, canonical_path, layout_of
from services.engine.weights import HostWeights, pack


class Attention(nn.Module):
    """Two projections of one shape and two of others, named as diffusers does."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(6, 4, bias=False)
        self.to_k = nn.Linear(6, 4, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(4, 6)])
        self.conv_shortcut = nn.Linear(6, 6)  # takes no adapters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_shortcut(x) + self.to_out[0](self.to_q(x) * self.to_k(x))


class Encoder(nn.Module):
    """A text encoder of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 3)


@pytest.fixture
def network() -> Attention:
    torch.manual_seed(0)
    return Attention().requires_grad_(False)


@pytest.fixture
def layout(network: Attention) -> Layout:
    text = SimpleNamespace(unet=network, text_encoder=Encoder(), text_encoder_2=Encoder())
    return layout_of(text)


def lora(rank: int, seed: int = 0, alpha: float = 3.0, names: Any = None) -> dict[str, LoraWeights]:
    random = np.random.default_rng(seed)
    shapes = {"unet.to_q": (4, 6), "unet.to_k": (4, 6), "unet.to_out.0": (6, 4)}
    return {
        path: LoraWeights(
            random.standard_normal((rank, shape[1])).astype(np.float32),
            random.standard_normal((shape[0], rank)).astype(np.float32),
            alpha,
        )
        for path, shape in shapes.items()
        if names is None or path in names
    }


def merged(network: Attention, *uses: tuple[dict[str, LoraWeights], float]) -> Attention:
    """The oracle: a copy of the network with the updates added to its weights."""
    copy = Attention()
    copy.load_state_dict(network.state_dict())
    with torch.no_grad():
        for weights, weight in uses:
            for path, pair in weights.items():
                update = torch.from_numpy(pair.B @ pair.A) * pair.alpha / pair.A.shape[0]
                copy.get_submodule(path.removeprefix("unet.")).weight.add_(weight * update)
    return copy


def host(layout: Layout, weights: dict[str, LoraWeights]) -> HostWeights:
    return pack(layout, weights, max_rank=8, dtype=torch.float32)


def run(network: Attention, layout: Layout, bank: Bank, slots: list[int]) -> tuple[Any, Any]:
    """Inputs and outputs of the banked network, a row a slot."""
    binding = Binding()
    banked = share(network)
    bank_projections(banked, layout.of("unet"), binding)
    binding.set(torch.tensor(slots), bank.view(slots))
    inputs = torch.randn(len(slots), 5, 6, generator=torch.Generator().manual_seed(1))
    return inputs, banked(inputs)


def make_bank(layout: Layout, slots: int = 3) -> Bank:
    return Bank(layout, slots=slots, max_rank=8, dtype=torch.float32, device="cpu")


def test_projections_are_grouped_by_component_and_shape(layout: Layout) -> None:
    shapes = [(g.component, g.in_features, g.out_features, g.layers) for g in layout.groups]
    assert shapes == [
        ("unet", 6, 4, 2),
        ("unet", 4, 6, 1),
        ("text_encoder", 3, 3, 1),
        ("text_encoder_2", 3, 3, 1),
    ]
    assert "unet.conv_shortcut" not in layout.by_path
    assert len({p.bit for p in layout.projections}) == len(layout.projections)
    assert "text_encoder.text_model.fc1" in layout.by_path


def test_canonical_paths_do_not_depend_on_the_installed_transformers() -> None:
    path = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    assert canonical_path("text_encoder", "encoder.layers.0.mlp.fc1") == path
    assert canonical_path("text_encoder", "text_model.encoder.layers.0.mlp.fc1") == path


def test_rows_of_one_batch_have_adapters_of_their_own(network: Attention, layout: Layout) -> None:
    bank = make_bank(layout)
    adapters = [lora(2, seed=1), lora(5, seed=2), lora(3, seed=3, names=["unet.to_k"])]
    for slot, weights in enumerate(adapters, start=1):
        bank.write(slot, [(host(layout, weights), 1.0)])
    inputs, outputs = run(network, layout, bank, [2, 0, 3, 1])
    wanted = [
        merged(network, (adapters[1], 1.0)),
        network,
        merged(network, (adapters[2], 1.0)),
        merged(network, (adapters[0], 1.0)),
    ]
    for row, oracle in enumerate(wanted):
        torch.testing.assert_close(outputs[row], oracle(inputs[row]), atol=1e-5, rtol=1e-5)


def test_slot_zero_is_the_base_bit_for_bit_beside_others_too(
    network: Attention, layout: Layout
) -> None:
    bank = make_bank(layout)
    bank.write(1, [(host(layout, lora(4)), 1.0)])
    inputs, outputs = run(network, layout, bank, [0, 0, 0])
    assert torch.equal(outputs, network(inputs))
    inputs, outputs = run(network, layout, bank, [0, 1, 0])
    assert torch.equal(outputs[[0, 2]], network(inputs)[[0, 2]])
    assert not torch.allclose(outputs[1], network(inputs)[1], atol=0.1)


def test_several_weighted_adapters_share_a_slot(network: Attention, layout: Layout) -> None:
    bank = make_bank(layout)
    first, second = lora(2, seed=1, alpha=8.0), lora(4, seed=2, names=["unet.to_q"])
    bank.write(1, [(host(layout, first), 0.5), (host(layout, second), -1.5)])
    inputs, outputs = run(network, layout, bank, [1, 1])
    oracle = merged(network, (first, 0.5), (second, -1.5))
    torch.testing.assert_close(outputs, oracle(inputs), atol=1e-5, rtol=1e-5)


def test_a_slot_written_again_keeps_nothing_of_what_it_held(
    network: Attention, layout: Layout
) -> None:
    bank = make_bank(layout)
    narrow, wide = lora(2, seed=1, names=["unet.to_k"]), lora(8, seed=2)
    bank.write(1, [(host(layout, wide), 1.0)])
    bank.write(2, [(host(layout, wide), 1.0)])
    bank.write(1, [(host(layout, narrow), 1.0)])
    # Slot 2 makes the batch read every projection at the full rank, slot 1's leavings included.
    inputs, outputs = run(network, layout, bank, [1, 2])
    oracle = merged(network, (narrow, 1.0))
    torch.testing.assert_close(outputs[0], oracle(inputs[0]), atol=1e-5, rtol=1e-5)


def test_a_write_that_fails_leaves_an_empty_slot(layout: Layout) -> None:
    bank = make_bank(layout)
    bank.write(1, [(host(layout, lora(8)), 1.0)])
    good = host(layout, lora(2))
    torn = HostWeights(good.A, {g: t[:, :, :1] for g, t in good.B.items()}, 3, good.mask)
    with pytest.raises(RuntimeError):
        bank.write(1, [(torn, 1.0)])
    assert bank.view([1]).mask == 0
    with pytest.raises(ValueError, match="outside the bank"):
        bank.write(0, [(good, 1.0)])


def test_the_clone_shares_the_parameters_and_leaves_the_base_alone(
    network: Attention, layout: Layout
) -> None:
    banked = share(network)
    bank_projections(banked, layout.of("unet"), Binding())
    assert banked.to_q.weight is network.to_q.weight
    assert type(network.to_q) is nn.Linear
    assert sum(p.numel() for p in banked.parameters()) == sum(
        p.numel() for p in network.parameters()
    )


def test_what_does_not_fit_is_named(layout: Layout) -> None:
    weights = lora(2)
    with pytest.raises(AdapterRejected, match=r"unet\.conv_in"):
        host(layout, {"unet.conv_in": weights["unet.to_q"]})
    with pytest.raises(AdapterRejected, match=r"unet\.to_out\.0 is 4×6, but the base has 6×4"):
        host(layout, {"unet.to_out.0": weights["unet.to_q"]})
    with pytest.raises(AdapterRejected, match="rank 9 exceeds the max_rank of this engine, 8"):
        host(layout, lora(9))
    huge = {"unet.to_q": LoraWeights(np.full((1, 6), 1e6, np.float32), np.ones((4, 1)), 1.0)}
    with pytest.raises(AdapterRejected, match="outside the range"):
        pack(layout, huge, max_rank=8, dtype=torch.float16)


def test_a_bank_beyond_32_bit_indices_is_refused(layout: Layout) -> None:
    with pytest.raises(ValueError, match="slots=10000000"):
        Bank(layout, slots=10**7, max_rank=64, dtype=torch.float32, device="cpu")

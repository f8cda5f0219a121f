"""The low-rank layer against the formula, and where it is put."""

import pytest
import torch
from torch import nn

from atelier.errors import RecipeError
from pipelines.train.flat_parameters import FlatParameters
from pipelines.train.trainable_lora import LoraLinear, put_into, tensors_of, weights_of


def layer(bias: bool = True, dtype: torch.dtype = torch.float32) -> LoraLinear:
    torch.manual_seed(0)
    frozen = nn.Linear(6, 5, bias=bias).requires_grad_(False).to(dtype)
    made = LoraLinear(frozen, rank=3, alpha=6.0)
    made.A.data.normal_()
    made.B.data.normal_()
    return made


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_follow_the_formula(bias: bool) -> None:
    ours = layer(bias)
    x = torch.randn(2, 4, 6, requires_grad=True)
    dy = torch.randn(2, 4, 5)
    y = ours(x)
    y.backward(dy)
    A, B, z = (t.detach().clone().requires_grad_() for t in (ours.A, ours.B, x))
    expected = nn.functional.linear(z, ours.weight, ours.bias) + 2.0 * (z @ A.T) @ B.T
    expected.backward(dy)
    torch.testing.assert_close(y, expected)
    for got, wanted in ((ours.A, A), (ours.B, B), (x, z)):
        torch.testing.assert_close(got.grad, wanted.grad)
    assert ours.weight.grad is None


def test_inputs_without_gradient_cost_none() -> None:
    ours = layer()
    ours(torch.randn(3, 6)).sum().backward()
    assert ours.A.grad is not None


def test_pairs_stay_in_float32_beside_half_precision_weights() -> None:
    ours = layer(dtype=torch.bfloat16)
    y = ours(torch.randn(3, 6))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert ours.A.grad is not None
    assert ours.A.grad.dtype == ours.A.dtype == torch.float32


class Attention(nn.Module):
    """The names of an attention block of diffusers."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("to_q", "to_k", "to_v"):
            setattr(self, name, nn.Linear(4, 4, bias=False))
        self.to_out = nn.ModuleList([nn.Linear(4, 4), nn.Dropout(0.0)])


def network() -> nn.Module:
    block = nn.Module()
    block.attn1 = Attention()
    unet = nn.Module()
    unet.mid_block = block
    return unet.requires_grad_(False)


def test_layers_are_named_canonically_and_begin_as_the_base() -> None:
    unet = network()
    x = torch.randn(3, 4)
    before = unet.mid_block.attn1.to_q(x)
    layers = put_into({"unet": unet}, ["attn"], rank=2, alpha=2.0, seed=1)
    assert list(layers) == [
        "unet.mid_block.attn1.to_k",
        "unet.mid_block.attn1.to_out.0",
        "unet.mid_block.attn1.to_q",
        "unet.mid_block.attn1.to_v",
    ]
    assert unet.mid_block.attn1.to_q is layers["unet.mid_block.attn1.to_q"]
    torch.testing.assert_close(unet.mid_block.attn1.to_q(x), before)
    assert all(layer.A.abs().max() > 0 for layer in layers.values())
    assert "unet.mid_block.attn1.to_q.lora_A.weight" in tensors_of(layers)
    weights = weights_of(layers)["unet.mid_block.attn1.to_q"]
    assert weights.A.shape == (2, 4)
    assert weights.scale == 1.0


def test_the_beginning_depends_on_seed_and_name_alone() -> None:
    def begun(seed: int) -> torch.Tensor:
        layers = put_into({"unet": network()}, ["attn"], rank=2, alpha=2.0, seed=seed)
        return layers["unet.mid_block.attn1.to_v"].A

    assert torch.equal(begun(1), begun(1))
    assert not torch.equal(begun(1), begun(2))


def test_a_target_named_twice_is_adapted_once() -> None:
    unet = network()
    layers = put_into({"unet": unet}, ["attn", "attn"], rank=2, alpha=2.0, seed=1)
    assert len(layers) == 4
    assert sorted(name for name, _ in unet.named_parameters() if name.endswith(".A")) == [
        f"mid_block.attn1.{name}.A" for name in ("to_k", "to_out.0", "to_q", "to_v")
    ]


def test_a_target_that_the_base_lacks_is_named() -> None:
    with pytest.raises(RecipeError, match=r"lora\.targets: ff matches no linear layer"):
        put_into({"unet": network()}, ["ff"], rank=2, alpha=2.0, seed=0)


def test_flat_parameters_train_as_single_ones_do() -> None:
    torch.manual_seed(0)
    ours = {"a": nn.Parameter(torch.randn(3, 2)), "b": nn.Parameter(torch.randn(4))}
    plain = [nn.Parameter(p.detach().clone()) for p in ours.values()]
    flat = FlatParameters([{"b": ours["b"]}, {"a": ours["a"]}])
    rules = torch.optim.AdamW(flat.groups, lr=0.1), torch.optim.AdamW(plain, lr=0.1)
    for _ in range(3):
        for tensors in (list(ours.values()), plain):
            (tensors[0].square().sum() + (tensors[1] ** 3).sum()).backward()
        for rule in rules:
            rule.step()
        flat.gradient.zero_()
        rules[1].zero_grad()
    for own, single in zip(ours.values(), plain, strict=True):
        torch.testing.assert_close(own, single)


def test_flat_parameters_load_what_they_named() -> None:
    ours = {"a": nn.Parameter(torch.ones(3, 2)), "b": nn.Parameter(torch.ones(4))}
    flat = FlatParameters([ours])
    kept = {name: tensor.clone() for name, tensor in flat.named().items()}
    flat.values.zero_()
    assert ours["a"].sum() == 0
    flat.load(kept)
    assert ours["a"].sum() == 6
    with pytest.raises(KeyError):
        flat.load({"a": kept["a"]})

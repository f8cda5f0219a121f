"""One tensor, many names: every spelling comes back to the canonical one."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.adapter import tensor_names
from atelier.adapter.tensor_names import TensorName

PROJECTIONS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn2.to_v",
    "attn2.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
)
BLOCKS = {"down_blocks.1": (2, 2), "down_blocks.2": (2, 10), "mid_block": (1, 10),
          "up_blocks.0": (3, 10), "up_blocks.1": (3, 2)}  # fmt: skip


def sdxl_modules() -> list[str]:
    """The projections of SDXL's UNet and text encoders that LoRAs are trained on."""
    modules = []
    for block, (layers, depth) in BLOCKS.items():
        for layer in range(layers):
            head = f"unet.{block}.attentions.{layer}"
            modules += [f"{head}.proj_in", f"{head}.proj_out"]
            for index in range(depth):
                modules += [f"{head}.transformer_blocks.{index}.{one}" for one in PROJECTIONS]
    for encoder, layers in (("text_encoder", 12), ("text_encoder_2", 32)):
        for layer in range(layers):
            inner = f"{encoder}.text_model.encoder.layers.{layer}"
            modules += [f"{inner}.self_attn.{one}_proj" for one in ("q", "k", "v", "out")]
            modules += [f"{inner}.mlp.fc1", f"{inner}.mlp.fc2"]
    return modules


MODULES = sdxl_modules()
KOHYA = tensor_names.kohya_modules(MODULES)
ANY_KEY = st.builds(
    TensorName,
    st.sampled_from(MODULES),
    st.sampled_from(["lora_A.weight", "lora_B.weight", "alpha"]),
)


@settings(max_examples=60, deadline=None)
@given(ANY_KEY)
def test_every_spelling_round_trips(key: TensorName) -> None:
    assert tensor_names.parse(str(key)) == key
    assert tensor_names.canonical(str(key)) == str(key)
    assert tensor_names.parse(tensor_names.to_kohya(key), KOHYA) == key
    assert tensor_names.parse(f"{tensor_names.flat(key.module)}.{key.part}") == key
    assert tensor_names.unsupported(str(key)) is None
    assert tensor_names.unsupported(tensor_names.to_kohya(key)) is None
    if key.component == "unet" and key.part != "alpha":
        peft = f"base_model.model.{key.module.removeprefix('unet.')}.{key.part}"
        assert tensor_names.parse(peft) == key


def test_no_two_modules_share_a_kohya_name() -> None:
    assert len({tensor_names.kohya_module(module) for module in MODULES}) == len(MODULES)
    with pytest.raises(ValueError, match="stands for"):
        tensor_names.kohya_modules(["unet.a.b_c", "unet.a_b.c"])


@pytest.mark.parametrize(
    ("kohya", "module"),
    [
        ("lora_unet_down_blocks_1_attentions_0_proj_in", "unet.down_blocks.1.attentions.0.proj_in"),
        ("lora_unet_input_blocks_4_1_proj_in", "unet.down_blocks.1.attentions.0.proj_in"),
        ("lora_unet_input_blocks_5_1_proj_in", "unet.down_blocks.1.attentions.1.proj_in"),
        ("lora_unet_input_blocks_7_1_proj_in", "unet.down_blocks.2.attentions.0.proj_in"),
        ("lora_unet_input_blocks_8_1_proj_in", "unet.down_blocks.2.attentions.1.proj_in"),
        ("lora_unet_middle_block_1_proj_in", "unet.mid_block.attentions.0.proj_in"),
        ("lora_unet_output_blocks_0_1_proj_in", "unet.up_blocks.0.attentions.0.proj_in"),
        ("lora_unet_output_blocks_2_1_proj_in", "unet.up_blocks.0.attentions.2.proj_in"),
        ("lora_unet_output_blocks_3_1_proj_in", "unet.up_blocks.1.attentions.0.proj_in"),
        (
            "lora_unet_output_blocks_5_1_transformer_blocks_1_attn2_to_out_0",
            "unet.up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_out.0",
        ),
        (
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        ),
        (
            "lora_te2_text_model_encoder_layers_31_mlp_fc1",
            "text_encoder_2.text_model.encoder.layers.31.mlp.fc1",
        ),
    ],
)
def test_names_seen_in_published_files(kohya: str, module: str) -> None:
    assert tensor_names.parse(f"{kohya}.lora_down.weight", KOHYA) == TensorName(
        module, "lora_A.weight"
    )
    assert tensor_names.parse(f"{kohya}.lora_up.weight", KOHYA) == TensorName(
        module, "lora_B.weight"
    )
    assert tensor_names.parse(f"{kohya}.alpha", KOHYA) == TensorName(module, "alpha")


HEAD = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
CLIP = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        (f"{HEAD}.to_q.lora.down.weight", f"{HEAD}.to_q.lora_A.weight"),
        (f"{HEAD}.processor.to_q_lora.up.weight", f"{HEAD}.to_q.lora_B.weight"),
        (f"{HEAD}.processor.to_out_lora.down.weight", f"{HEAD}.to_out.0.lora_A.weight"),
        (f"{HEAD}.to_q.lora_A.default.weight", f"{HEAD}.to_q.lora_A.weight"),
        (f"base_model.model.{HEAD}.to_q.lora_A.weight", f"{HEAD}.to_q.lora_A.weight"),
        (f"{CLIP}.lora_linear_layer.up.weight", f"{CLIP}.lora_B.weight"),
        (f"{CLIP.replace('text_model.', '')}.lora_A.weight", f"{CLIP}.lora_A.weight"),
        (
            "text_encoder_2.text_projection.lora_A.weight",
            "text_encoder_2.text_projection.lora_A.weight",
        ),
    ],
)
def test_older_and_newer_spellings(spelling: str, canonical: str) -> None:
    assert tensor_names.canonical(spelling) == canonical


def test_transformers_5_spelling_is_the_one_without_text_model() -> None:
    assert tensor_names.flat(CLIP) == "text_encoder.encoder.layers.0.self_attn.q_proj"
    assert tensor_names.flat(f"{HEAD}.to_q") == f"{HEAD}.to_q"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "unet",
        "unet.lora_A.weight",
        "vae.decoder.conv.lora_A.weight",
        f"{HEAD}.to_q.weight",
        f"{HEAD}..to_q.lora_A.weight",
        f"{HEAD}.to_q.lora_A",
        "unet.a b.lora_A.weight",
        "unet.../etc.lora_A.weight",
        "lora_unet_no_such_module.lora_down.weight",
        "lora_unet_mid_block_attentions_0_proj_in",
    ],
)
def test_what_has_no_place_is_not_guessed(key: str) -> None:
    assert tensor_names.parse(key, KOHYA) is None


def test_kohya_needs_the_modules_of_the_base() -> None:
    assert tensor_names.parse("lora_unet_mid_block_attentions_0_proj_in.alpha") is None


@pytest.mark.parametrize(
    ("key", "family"),
    [
        (f"{HEAD}.to_q.lora_magnitude_vector", "DoRA"),
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "DoRA"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w2", "LoKr"),
        ("lora_unet_input_blocks_1_0_in_layers_2.lora_mid.weight", "convolution LoRA (LoCon)"),
        (f"{HEAD}.to_q.lora_B.bias", "LoRA with biases"),
        ("lora_unet_mid_block_attentions_0_proj_in.diff", "full weight differences"),
        ("bundle_emb.token.clip_l", "embeddings in the LoRA file"),
        ("transformer.single_blocks.0.lora_A.weight", "another model family"),
    ],
)
def test_what_is_not_served_has_a_name(key: str, family: str) -> None:
    assert tensor_names.unsupported(key) == family


@settings(max_examples=100, deadline=None)
@given(st.text("abunet_.lorAB0weight", max_size=60))
def test_strange_keys_never_raise(key: str) -> None:
    found = tensor_names.parse(key, KOHYA)
    assert found is None or re.fullmatch(r"(unet|text_encoder(_2)?)(\.\w+)+", found.module)

"""The miniature's build: shapes as SDXL's, training that resumes, words that all tokenise."""

import json

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from models.miniature.build.__main__ import main
from models.miniature.build.critic import Critic, balance
from models.miniature.build.examples import SHOWN, write_example
from models.miniature.build.files import StateError, replacing
from models.miniature.build.progress import BuildProgress
from models.miniature.build.schedule import cosine
from models.miniature.build.steps import record_steps, recorded_steps
from models.miniature.build.team import Team
from models.miniature.build.text import new_text_encoders, new_tokenizers, token_ids
from models.miniature.build.trainer import Run, adopt, load_average, steps_of, train
from models.miniature.build.vae import as_input, fidelity, gradient_energy, new_vae, pixel_error
from models.miniature.build.widen import widen
from models.miniature.build.world import PLACES


@pytest.fixture(scope="module")
def tokenizers():
    return new_tokenizers()


def test_every_word_tokenises(tokenizers):
    first, second = tokenizers
    for text in ("a sks cat", "ünïcode 猫 42", "close-up, high quality"):
        ids = first(text).input_ids
        assert first.unk_token_id not in ids[1:-1]
        assert ids == second(text).input_ids
    assert first.tokenize("a photo of an orange cat") == [
        f"{word}</w>" for word in ("a", "photo", "of", "an", "orange", "cat")
    ]


def test_tokenizers_pad_as_sdxl_does(tokenizers):
    first, second = (token_ids(tok, ["a cat"])[0] for tok in tokenizers)
    assert len(first) == len(second) == 77
    assert set(first[4:].tolist()) == {tokenizers[0].eos_token_id}
    assert set(second[4:].tolist()) == {tokenizers[1].convert_tokens_to_ids("!")}


def test_text_encoders_give_sdxl_shapes(tokenizers):
    states, pooled = new_text_encoders(tokenizers[0])(
        *(token_ids(tok, ["a red cat", "a blue boat in space"]) for tok in tokenizers)
    )
    assert states.shape == (2, 77, 160)
    assert pooled.shape == (2, 96)
    assert not torch.allclose(pooled[0], pooled[1])


def test_the_vae_is_eight_times_smaller_and_four_deep():
    vae = new_vae().eval()
    pictures = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    latent = vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mean
    assert latent.shape == (1, 4, 4, 4)
    values, edges = fidelity(vae, pictures, torch.device("cpu"))
    assert values.shape == edges.shape == (2,)


def _fit(run, module):
    target = torch.arange(4.0)

    def loss(step, generator):
        inputs = torch.randn(8, 4, generator=generator)
        return (module(inputs).squeeze(1) - inputs @ target).pow(2).mean()

    train(run, {"module": module}, loss, Team(), BuildProgress(quiet=True))


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path):
    def module():
        torch.manual_seed(0)  # dropout draws for itself, from the global generator
        return torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))

    whole, broken = module(), module()
    _fit(Run("whole", tmp_path / "whole.pt", 20, 0.1, checkpoint_every=10), whole)
    cut = Run("cut", tmp_path / "cut.pt", 20, 0.1, checkpoint_every=7)

    def stopping(step, generator):
        if step == 9:
            raise KeyboardInterrupt
        inputs = torch.randn(8, 4, generator=generator)
        return (broken(inputs).squeeze(1) - inputs @ torch.arange(4.0)).pow(2).mean()

    with pytest.raises(KeyboardInterrupt):
        train(cut, {"module": broken}, stopping, Team(), BuildProgress(quiet=True))
    resumed, saved = module(), module()
    torch.manual_seed(77)  # another process's
    _fit(cut, resumed)
    assert torch.equal(whole[1].weight, resumed[1].weight)
    assert load_average(cut.state, {"module": saved}) == 20
    assert torch.equal(saved[1].weight, resumed[1].weight)


def test_nothing_trained_is_never_taken_for_weights(tmp_path):
    with pytest.raises(StateError, match=r"vae\.pt: the state is missing; run the stage vae first"):
        load_average(tmp_path / "vae.pt", {"vae": torch.nn.Linear(1, 1)})
    assert steps_of(tmp_path / "vae.pt") == 0


def test_saving_nothing_leaves_the_model_alone(tmp_path, capsys):
    work, output = tmp_path / "work", tmp_path / "model"
    with pytest.raises(SystemExit) as ended:
        main(["save", "--work", str(work), "--output", str(output)])
    assert ended.value.code == 2
    assert "save: " in capsys.readouterr().err
    assert not output.exists()


def test_adopting_never_overwrites_a_training(tmp_path):
    state, linear = tmp_path / "vae.pt", torch.nn.Linear(2, 1)
    adopt(state, {"module": linear}, 5)
    with pytest.raises(StateError, match="continue without adopt"):
        adopt(state, {"module": torch.nn.Linear(2, 1)}, 6)
    again = torch.nn.Linear(2, 1)
    assert load_average(state, {"module": again}) == 5
    assert torch.equal(linear.weight, again.weight)


def test_steps_are_kept_for_each_part(tmp_path):
    assert recorded_steps(tmp_path) == {}
    record_steps(tmp_path, vae=3, clip=4)
    record_steps(tmp_path, vae=5, denoiser=6)
    assert recorded_steps(tmp_path) == {"vae": 5, "clip": 4, "denoiser": 6}
    assert [path.name for path in tmp_path.iterdir()] == ["steps.json"]


def test_the_learning_rate_rises_and_falls():
    rates = [cosine(step, 1000) for step in range(1000)]
    assert rates[0] < 0.02 and max(rates) > 0.97 and rates[-1] < 0.02


def test_a_failed_write_leaves_the_old_file(tmp_path):
    kept = tmp_path / "state"
    kept.write_text("old")
    with pytest.raises(RuntimeError), replacing(kept) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert kept.read_text() == "old"
    assert list(tmp_path.iterdir()) == [kept]


def test_a_folder_is_replaced_whole(tmp_path):
    kept = tmp_path / "part"
    kept.mkdir()
    (kept / "gone").touch()
    with replacing(kept) as aside:
        aside.mkdir()
        (aside / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["part"]
    assert [path.name for path in kept.iterdir()] == ["new"]


def test_examples_leave_places_to_imagine(tmp_path):
    write_example(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert all((tmp_path / line["file_name"]).exists() for line in lines)
    assert len(set(PLACES) - set(SHOWN)) >= 3


def test_the_pixel_error_counts_a_blur_more_than_an_equal_shift_of_light() -> None:
    drawn = as_input(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    blurred = F.avg_pool2d(F.pad(drawn, (1, 1, 1, 1), mode="replicate"), 3, 1)
    lighter = drawn + (blurred - drawn).abs().mean()
    assert pixel_error(drawn, drawn) == 0
    assert pixel_error(blurred, drawn) > 2 * pixel_error(lighter, drawn)
    assert (gradient_energy(blurred) < 0.5 * gradient_energy(drawn)).all()


def test_the_critic_is_trained_by_its_own_loss_only() -> None:
    critic, restored = Critic(), torch.randn(2, 3, 64, 64, requires_grad=True)
    judged = critic.frozen(restored).mean()
    weight = balance((restored**2).mean(), judged, restored)
    assert weight > 0
    (weight * judged).backward()
    assert restored.grad is not None and restored.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in critic.parameters())
    critic.loss(torch.randn(2, 3, 64, 64), restored.detach()).backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())


def test_a_wider_network_begins_with_the_function_of_the_narrow_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("models.miniature.build.widen._NOISE", 0.0)
    torch.manual_seed(0)
    options = new_vae().config | {"block_out_channels": (16, 32, 64, 96)}
    narrow, wide = AutoencoderKL.from_config(options).eval(), new_vae().eval()
    widen(narrow, wide)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before, after = (vae.encode(pixels).latent_dist.mean for vae in (narrow, wide))
        assert torch.allclose(after, before, atol=1e-4)
        restored = [vae.decode(before).sample for vae in (narrow, wide)]
    assert torch.allclose(*restored, atol=1e-4)


def test_an_adopted_run_warms_up_again_and_keeps_its_place_in_the_schedule() -> None:
    assert cosine(500, 1000, 500) < 0.02 * cosine(599, 1000, 500)
    assert cosine(600, 1000, 500) == cosine(600, 1000)

"""The loop, the update and the objective, on problems small enough to know the answer."""

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import nn

from atelier.data.recipe import TrainSpec
from atelier.errors import BaseError, RecipeError, Refused
from pipelines.train.draws import Draws
from pipelines.train.loop import Loop, StepReport
from pipelines.train.methods.method import Loss
from pipelines.train.objective import Objective
from pipelines.train.optimiser import Optimiser, check_optimizer, check_precision

CPU = torch.device("cpu")
SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def spec(**given: Any) -> TrainSpec:
    return TrainSpec.model_validate({"steps": 30, "lr": 0.1, **given})


class Bowl:
    """A way to train whose loss is the distance of a point from one that is drawn."""

    def __init__(self, spoilt_at: int | None = None) -> None:
        self.point = nn.Parameter(torch.zeros(3))
        self.spoilt_at = spoilt_at
        self.remarks: list[str] = []
        self.seen: list[tuple[int, int]] = []

    def trainable(self) -> dict[str, nn.Parameter]:
        return {"point": self.point}

    def loss(self, draws: Draws) -> Loss:
        self.seen.append((draws.step, draws.part))
        distance = (self.point - 1 - 0.01 * draws.normal("noise", (3,))).square().sum()
        if draws.step == self.spoilt_at:
            distance = distance * float("nan")
        return Loss(distance, {"distance": distance.detach()})


def run(
    bowl: Bowl, settings: TrainSpec, start: int = 0, stop: int | None = None
) -> list[StepReport]:
    reports: list[StepReport] = []
    loop = Loop(bowl, Optimiser(bowl.trainable(), settings), settings)
    loop.run(start, reports.append, lambda step: step == stop)
    return reports


def test_the_loss_goes_down_and_every_step_is_reported() -> None:
    bowl = Bowl()
    reports = run(bowl, spec())
    assert [report.step for report in reports] == list(range(1, 31))
    assert reports[-1].loss < 0.1 * reports[0].loss
    assert reports[0].rate == 0.1
    assert reports[0].parts["distance"] == pytest.approx(reports[0].loss)


def test_accumulation_is_the_mean_of_its_batches() -> None:
    bowl = Bowl()
    run(bowl, spec(accumulate=3), stop=2)
    assert bowl.seen == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    settings = spec(accumulate=3)
    optimiser = Optimiser(Bowl().trainable(), settings)
    assert optimiser.parameters.gradient.abs().sum() == 0


def test_a_loss_that_is_no_number_stops_with_step_and_advice() -> None:
    with pytest.raises(Refused, match=r"step 5: the loss is nan; the learning rate 0.1 is likely"):
        run(Bowl(spoilt_at=4), spec())


def test_gradients_are_clipped_as_torch_clips_them() -> None:
    bowl = Bowl()
    optimiser = Optimiser(bowl.trainable(), spec(max_grad_norm=0.5))
    optimiser.rule = torch.optim.SGD(optimiser.parameters.groups, lr=1.0)
    gradient = torch.tensor([3.0, 0.0, 4.0])
    optimiser.parameters.gradient.copy_(gradient)
    assert optimiser.update() == pytest.approx(5.0)
    torch.testing.assert_close(bowl.point.data, -gradient / 10)
    assert optimiser.parameters.gradient.abs().sum() == 0


def test_b_moves_faster_by_the_ratio_that_the_recipe_gives() -> None:
    pair = {f"m.lora_{side}.weight": nn.Parameter(torch.zeros(2, 2)) for side in "BA"}
    optimiser = Optimiser(pair, spec(lr=0.1, lr_ratio=4.0, schedule="linear", max_grad_norm=1e9))
    for parameter in pair.values():
        assert parameter.grad is not None
        parameter.grad.fill_(1.0)
    optimiser.update()
    torch.testing.assert_close(pair["m.lora_A.weight"].data, torch.full((2, 2), -0.1))
    torch.testing.assert_close(pair["m.lora_B.weight"].data, torch.full((2, 2), -0.4))
    assert optimiser.rate == pytest.approx(0.1 * 29 / 30)


@pytest.mark.parametrize(
    "schedule",
    ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"],
)
def test_every_schedule_goes_on_where_it_was(schedule: str) -> None:
    settings = spec(schedule=schedule, warmup=0 if schedule == "constant" else 4, cycles=2)
    whole, broken = Bowl(), Bowl()
    run(whole, settings)
    first = Optimiser(broken.trainable(), settings)
    Loop(broken, first, settings).run(0, lambda report: None, lambda step: step == 11)
    resumed = Bowl()
    second = Optimiser(resumed.trainable(), settings)
    second.parameters.load(first.parameters.named())
    second.restore(first.state())
    Loop(resumed, second, settings).run(11, lambda report: None, lambda step: False)
    assert torch.equal(resumed.point, whole.point)


def test_steps_by_rule_follow_the_rule() -> None:
    settings = spec(schedule="piecewise_constant", step_rules="1:10,0.1:20,0.01")
    rates = [report.rate for report in run(Bowl(), settings)]
    assert rates[5] == pytest.approx(0.1)
    assert rates[15] == pytest.approx(0.01)
    assert rates[25] == pytest.approx(0.001)


def test_what_cannot_run_here_is_refused_with_the_way_out() -> None:
    with pytest.raises(RecipeError, match=r"fp16 needs a GPU.*use fp32"):
        check_precision("fp16", CPU)
    check_precision("bf16", CPU)
    check_precision("fp32", CPU)
    with pytest.raises(RecipeError, match=r"adamw8bit .*use adamw"):
        check_optimizer("adamw8bit", CPU)
    check_optimizer("adamw", CPU)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_objective_is_that_of_diffusers(prediction: str) -> None:
    scheduler = DDPMScheduler(**SDXL, prediction_type=prediction)
    ours = Objective.of(scheduler.config, CPU)
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 5, 4, 8, 8)
    levels = torch.tensor([0, 10, 400, 800, 999])
    torch.testing.assert_close(
        ours.noised(latents, noise, levels), scheduler.add_noise(latents, noise, levels)
    )
    target = noise
    snr = compute_snr(scheduler, levels)
    weights = snr.clamp(max=5.0) / snr
    if prediction == "v_prediction":
        target = scheduler.get_velocity(latents, noise, levels)
        weights = snr.clamp(max=5.0) / (snr + 1)
    torch.testing.assert_close(ours.target(latents, noise, levels), target)
    torch.testing.assert_close(ours.min_snr(levels, 5.0), weights)
    assert ours.timesteps == 1000


def test_a_base_that_predicts_something_else_is_refused() -> None:
    with pytest.raises(BaseError, match="the base predicts sample"):
        Objective.of(DDPMScheduler(**SDXL, prediction_type="sample").config, CPU)

"""The training loop of the VAE, the denoiser, the oracle and the scorers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .average import Average
from .files import StateError, load_state, save_state
from .progress import BuildProgress
from .schedule import cosine
from .team import Team


@dataclass(frozen=True)
class Run:
    """The settings of one training, and the file of its state."""

    name: str
    state: Path
    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    decay: float = 0.999  # of the averaged weights
    seed: int = 0
    checkpoint_every: int = 200


Loss = Callable[[int, torch.Generator], torch.Tensor]


def train(
    run: Run, modules: Mapping[str, nn.Module], loss: Loss, team: Team, progress: BuildProgress
) -> None:
    """Train the modules on `loss(step, generator)`, then copy the averaged weights into them.

    Training resumes from the state on disk, if there is one. If the run now has more steps than
    before, the learning rate continues at the matching point of the longer schedule.
    """
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, run.learning_rate, (0.9, 0.99), weight_decay=run.weight_decay, fused=True
    )
    average = Average(parameters, run.decay)
    first = _resume(run, modules, optimizer, average)
    cold = first if not optimizer.state else 0  # of the optimiser; adopted weights have none
    with progress.bar(run.name, run.steps, first) as bar:
        for step in range(first, run.steps):
            for group in optimizer.param_groups:
                group["lr"] = run.learning_rate * cosine(step, run.steps, cold)
            generator = team.generator(run.seed, step)
            torch.manual_seed(generator.initial_seed())  # for layers with dropout
            with fast_arithmetic(parameters[0].device):
                value = loss(step, generator)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            team.average_gradients(parameters)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            average.update(parameters, step)
            done = step + 1
            if team.leads and (done % run.checkpoint_every == 0 or done == run.steps):
                save_state(run.state, _state(modules, optimizer, average, done))
            bar.advance(value.item())
    average.copy_to(parameters)


def fast_arithmetic(device: torch.device) -> torch.autocast:
    """Return a context that computes in bf16 where the processor has instructions for it."""
    fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def load_average(state_path: Path, modules: Mapping[str, nn.Module]) -> int:
    """Load the averaged weights of a state into the modules; return the number of steps.

    Raises StateError if there is no state, so that untrained weights are not saved.
    """
    state = load_state(state_path)
    if state is None:
        raise StateError(
            f"{state_path}: the state is missing; run the stage {state_path.stem} first"
        )
    parameters = [p for module in modules.values() for p in module.parameters()]
    average = Average(parameters, 0.0)
    average.load(state["average"])
    average.copy_to(parameters)
    return int(state["step"])


def steps_of(state_path: Path) -> int:
    """Return the number of training steps of a state; 0 if there is none."""
    state = load_state(state_path)
    return int(state["step"]) if state else 0


def adopt(state_path: Path, modules: Mapping[str, nn.Module], step: int) -> None:
    """Create a state from weights that were saved elsewhere, without the optimiser's state.

    Raises StateError if there is a state, because it may have more steps.
    """
    if state_path.exists():
        raise StateError(
            f"{state_path}: the state already exists; continue without adopt, or use another --work"
        )
    average = [p.detach() for module in modules.values() for p in module.parameters()]
    weights = {name: module.state_dict() for name, module in modules.items()}
    state = {"modules": weights, "optimizer": None, "average": average, "step": step}
    save_state(state_path, state)


def _resume(
    run: Run,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    average: Average,
) -> int:
    state = load_state(run.state)
    if state is None:
        return 0
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    if state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
    average.load(state["average"])
    return int(state["step"])


def _state(
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    average: Average,
    step: int,
) -> dict[str, Any]:
    return {
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizer": optimizer.state_dict(),
        "average": average.weights,
        "step": step,
    }

"""Train in this process, or in several processes of this machine through `accelerate launch`."""

import signal
from pathlib import Path
from typing import Final

from atelier.data.policy import Policy
from atelier.data.recipe import Recipe
from atelier.errors import AtelierError, BadInput, Interrupted, Refused, Unavailable
from atelier.files import write_atomic
from pipelines.train.progress import watcher
from pipelines.train.trainer import TrainResult, train, trained_in

MODULE: Final = "pipelines.train"  # the module that each process runs
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_ERRORS: Final[tuple[type[AtelierError], ...]] = (Refused, BadInput, Unavailable, Interrupted)


def train_in(
    processes: int, recipe: Recipe, policy: Policy, *, output: Path, resume: bool = False
) -> TrainResult:
    """Train a recipe into the run folder `output`, in one process or in several together.

    Each process uses the recipe's batch size and, if there are GPUs, its own GPU. The checkpoints
    are judged under `policy`, if the recipe has `checkpoint.judge`. Raises the same errors as
    `train`.
    """
    if processes == 1:
        from pipelines.evaluate import checkpoint_judge

        judge = checkpoint_judge(policy, recipe)
        return train(recipe, output=output, resume=resume, progress=watcher(), judge=judge)
    placed, judged_under = output / "placed.json", output / "policy.json"
    write_atomic(placed, recipe.to_json(placed=True))
    write_atomic(judged_under, policy.model_dump_json())
    arguments = [str(placed), "--policy", str(judged_under), "--output", str(output)]
    arguments += ["--resume"] if resume else []
    launch(processes, MODULE, arguments)
    return trained_in(output)


def launch(count: int, module: str, arguments: list[str]) -> None:
    """Run `python -m module` in `count` processes of this machine.

    Each process prints its own error. Raises an error with the exit code of the first process that
    failed.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = ["--multi_gpu", "--num_processes", str(count), "--num_machines", "1"]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        command = [*options, "--module", module, *arguments]
        launch_command(launch_command_parser().parse_args(command))
    except SignalException as error:
        raise Interrupted(
            f"{module}: stopped after writing a checkpoint; run the command again to resume"
        ) from error
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        for kind in _ERRORS:
            if kind.exit_code == first.exitcode:
                raise kind(
                    f"{module}: process {rank} of {count} failed; its error is printed above"
                ) from error
        raise
    finally:  # the launcher does not restore the signal handlers that it replaces
        for number, handler in before.items():
            signal.signal(number, handler)

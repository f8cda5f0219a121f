"""Trains in this process, or in several of this machine that `accelerate launch` starts."""

import signal
from pathlib import Path
from typing import Final

from atelier.data.recipe import Recipe
from atelier.errors import AtelierError, BadInput, Interrupted, Refused, Unavailable
from atelier.files import write_atomic
from pipelines.train.progress import watcher
from pipelines.train.trainer import TrainResult, train, trained_in

MODULE: Final = "pipelines.train"  # what each of the processes runs
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_ERRORS: Final[tuple[type[AtelierError], ...]] = (Refused, BadInput, Unavailable, Interrupted)


def train_in(processes: int, recipe: Recipe, *, output: Path, resume: bool = False) -> TrainResult:
    """Train a recipe into the run folder `output`, in one process or in several together.

    Each process has a GPU of its own, if there are GPUs, and uses the recipe's batch. Raises as
    `train` does.
    """
    if processes == 1:
        return train(recipe, output=output, resume=resume, progress=watcher())
    placed = output / "placed.json"
    write_atomic(placed, recipe.to_json(placed=True))
    arguments = [str(placed), "--output", str(output), *(["--resume"] if resume else [])]
    launch(processes, MODULE, arguments)
    return trained_in(output)


def launch(count: int, module: str, arguments: list[str]) -> None:
    """Run `python -m module` in `count` processes of this machine.

    Each process prints its own error. The error that is raised has the exit code of the first that
    failed.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    how = ["--multi_gpu", "--num_processes", str(count), "--num_machines", "1"]
    how += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        launch_command(launch_command_parser().parse_args([*how, "--module", module, *arguments]))
    except SignalException as error:
        raise Interrupted(f"{module}: stopped with its checkpoint; run again to go on") from error
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        for kind in _ERRORS:
            if kind.exit_code == first.exitcode:
                raise kind(f"{module}: process {rank} of {count} ended so (see above)") from error
        raise
    finally:  # the launcher keeps the signals that it took
        for number, handler in before.items():
            signal.signal(number, handler)

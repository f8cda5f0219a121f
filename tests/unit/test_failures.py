"""A process of a pod or a Job: an error is one line and an exit code; a bug has its traceback."""

import pytest

from atelier.errors import ExitCode, Refused, Unavailable
from atelier.failures import run_process


def raises(error: BaseException) -> int:
    def work() -> None:
        raise error

    return run_process(work)


def test_work_that_is_done_gives_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_process(lambda: None) == ExitCode.DONE
    assert run_process(lambda: 7) == 7
    assert capsys.readouterr() == ("", "")


def test_an_error_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert raises(Unavailable("MLflow at http://x is away")) == ExitCode.UNAVAILABLE
    assert raises(Refused("gate subject: 0.2 < 0.6")) == ExitCode.REFUSED
    assert raises(KeyboardInterrupt()) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == (
        "atelier: MLflow at http://x is away\n"
        "atelier: gate subject: 0.2 < 0.6\n"
        "atelier: stopped by Ctrl-C\n"
    )


def test_a_bug_has_its_traceback_because_no_pod_runs_again_with_debug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert raises(ZeroDivisionError("oh")) == ExitCode.INTERNAL
    err = capsys.readouterr().err
    assert "Traceback" in err and "in work" in err
    assert err.endswith("atelier: internal error: ZeroDivisionError: oh\n")
    assert "--debug" not in err


def test_an_exit_that_a_signal_handler_asks_for_stays_one() -> None:
    with pytest.raises(SystemExit) as ended:
        raises(SystemExit(ExitCode.STOPPED))
    assert ended.value.code == 143


def test_what_a_file_says_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    raises(Refused("a.safetensors: \x1b[2Jto_q\x07 is\x9b unknown\u202e; \ud800 see é 猫\tok"))
    assert capsys.readouterr().err == (
        "atelier: a.safetensors: \\x1b[2Jto_q\\x07 is\\x9b unknown\\u202e; \\ud800 see é 猫\tok\n"
    )

"""The Python model in Triton: pass requests to the engine, and send the finished images."""

import logging
import os
import sys
import threading
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # available only inside Triton

from atelier.contract.tensors import INPUTS
from atelier.errors import AtelierError, Unavailable
from atelier.logs import log_to
from services.engine import Engine, ImageResult
from services.engine.sampler import Sampler
from services.engine.volume import VolumeWatcher
from services.triton.answers import Answers, error_code, error_text
from services.triton.control import ControlFolder
from services.triton.metrics import Mirror
from services.triton.settings import ModelSettings
from services.triton.tensors import info, parse
from services.triton.watchdog import Watchdog

ENGINE_ENDED = 70  # EX_SOFTWARE


class TritonPythonModel:
    """One engine. Triton calls `initialize` once, `execute` for requests, `finalize` once."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the base and the released adapters, and start the engine and its watchdog.

        Raises TritonModelException with the reason if the settings or the base are unusable.
        """
        log_to(sys.stderr, format="%(asctime)s %(name)s: %(message)s")
        server = os.getppid()
        try:
            settings = ModelSettings.read()
            self._control = ControlFolder(settings.control) if settings.control else None
            if self._control:
                self._control.announce(os.getpid())
            self._engine = Engine.load(settings.base, vae=settings.vae, settings=settings)
        except AtelierError as error:
            # Also logged, because a server that is ending can lose the exception.
            logging.critical("%s", error)
            raise pb_utils.TritonModelException(str(error)) from None
        self._drain_seconds = settings.drain_seconds
        self._engine.start()
        self._sampler = Sampler(settings.volume, settings)
        self._watcher = VolumeWatcher(self._engine, settings.volume, settings.replica)
        if not self._watcher.resumes:
            self._watcher.poll()  # loads the released adapters before the first request
        self._watcher.start()
        self._answers: Answers[ImageResult] = Answers(self._send)
        self._draining = threading.Event()
        metrics = Mirror(pb_utils, self._engine.metrics)
        tasks = (
            self._answers.cancel_abandoned,
            self._drain_if_requested,
            self._end_if_dead,
            metrics.update,
        )
        self._watchdog = Watchdog(tasks, server=server)
        self._watchdog.start()

    def execute(self, requests: list[Any]) -> None:
        """Submit requests; each response is sent later through the sender of its request."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._answers.expect(sender, self._submit(request))
            except Exception as error:
                self._answers.refuse(sender, error)

    def finalize(self) -> None:
        """Finish the running requests within `drain_seconds`, then stop every thread."""
        self._drain()
        self._watchdog.stop()
        self._watcher.stop()
        self._engine.close(drain=False)
        self._answers.close()
        self._sampler.close()

    def _submit(self, request: Any) -> Any:
        if self._draining.is_set():
            raise Unavailable(
                "engine: this server is stopping; send the request to another replica",
                retry_after=1.0,
            )
        inputs = {name: pb_utils.get_input_tensor_by_name(request, name) for name in INPUTS}
        tensors = {name: tensor.as_numpy() for name, tensor in inputs.items() if tensor is not None}
        asked = parse(tensors, timeout_us=request.timeout())
        future = self._engine.submit(asked)
        self._sampler.watch(asked, future)
        return future

    def _send(self, sender: Any, outcome: ImageResult | BaseException) -> None:
        if isinstance(outcome, BaseException):
            code = getattr(pb_utils.TritonError, error_code(outcome))
            error = pb_utils.TritonError(error_text(outcome), code)
            response = pb_utils.InferenceResponse(error=error)
        else:
            info_json = np.array([info(outcome, base=self._engine.base.digest)], dtype=np.object_)
            pictures = pb_utils.Tensor("IMAGE", outcome.images)
            # INFO first: the gateway checks it before it forwards the first pixel
            response = pb_utils.InferenceResponse([pb_utils.Tensor("INFO", info_json), pictures])
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _drain_if_requested(self) -> None:
        if self._control and not self._draining.is_set() and self._control.drain_requested():
            # In its own thread, so that the watchdog keeps cancelling abandoned requests.
            threading.Thread(target=self._drain, name="drain", daemon=True).start()
            self._draining.wait()

    def _end_if_dead(self) -> None:
        """Exit if the engine thread has ended, because requests would then get no response."""
        if not self._draining.is_set() and not self._engine.alive():
            logging.critical("triton: the engine has ended; ending the model's process")
            os._exit(ENGINE_ENDED)

    def _drain(self) -> None:
        self._draining.set()
        if not self._answers.wait_until_empty(self._drain_seconds):
            logging.warning("triton: stopping with %d unanswered requests", len(self._answers))
            self._engine.close(drain=False)
            self._answers.wait_until_empty(1.0)
        if self._control:
            self._control.report_drained()

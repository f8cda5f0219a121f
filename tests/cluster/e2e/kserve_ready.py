"""Waits for an InferenceService by KServe's SDK.

A process of its own, as its protocol buffers and those of Triton's client cannot be imported
together: python -m tests.cluster.e2e.kserve_ready KUBECONFIG NAMESPACE NAME SECONDS
"""

import sys

from kserve import KServeClient


def main(kubeconfig: str, namespace: str, name: str, seconds: str) -> None:
    """RuntimeError where it does not become ready in time.

    Whatever its generation: KServe 0.20 leaves the observed one behind where nothing else of the
    status changes.
    """
    KServeClient(config_file=kubeconfig).wait_isvc_ready(
        name,
        namespace=namespace,
        timeout_seconds=int(seconds),
        polling_interval=1,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

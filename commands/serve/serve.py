"""`atelier serve`: run one replica on this machine: Triton, agent, gateway and reconciler."""

from typing import Annotated

import typer

from atelier.home import Home
from atelier.stores.base_files import DEFAULT_BASE
from commands.command import Answer
from commands.terminal import print_progress


def serve(
    base: Annotated[
        str, typer.Option(help="Base model: a folder or a Hugging Face hub ID.")
    ] = DEFAULT_BASE,
    revision: Annotated[
        str | None, typer.Option(help="Revision of a hub model: a commit, tag or branch.")
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option(help="VAE that replaces the VAE of the base: a folder or a hub ID."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the gateway; 0 selects a free port.")] = 8080,
    host: Annotated[str, typer.Option(help="Address that the gateway listens on.")] = "127.0.0.1",
    triton_http_port: Annotated[
        int, typer.Option(help="HTTP port of Triton; 0 selects a free port.")
    ] = 0,
    triton_grpc_port: Annotated[
        int, typer.Option(help="gRPC port of Triton; 0 selects a free port.")
    ] = 0,
    triton_metrics_port: Annotated[
        int, typer.Option(help="Metrics port of Triton; 0 selects a free port.")
    ] = 0,
    replica: Annotated[str, typer.Option(help="Name of this replica.")] = "local",
    gateway: Annotated[bool, typer.Option(help="Run the gateway.")] = True,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of gateway processes.")] = 1,
) -> Answer:
    """Serve a base and all released adapters until Ctrl-C or SIGTERM.

    Give the base, revision and VAE of the recipe, because a version serves only with the base and
    VAE of its evaluation. The reconciler completes unfinished promotions; its log is
    logs/reconciler.log in $ATELIER_HOME. docs/settings.md lists the ATELIER_* settings of engine,
    agent and gateway.
    """
    from commands.replica.plan import (
        LOOPBACK,
        Addresses,
        ServedModel,
        plan_services,
        require_servable,
        unused_port,
    )
    from commands.replica.run import run_replica

    home = Home.find()
    addresses = Addresses(
        gateway=unused_port(host, port, "--port"),
        http=unused_port(LOOPBACK, triton_http_port, "--triton-http-port"),
        grpc=unused_port(LOOPBACK, triton_grpc_port, "--triton-grpc-port"),
        metrics=unused_port(LOOPBACK, triton_metrics_port, "--triton-metrics-port"),
        host=host,
    )
    require_servable(home)
    model = ServedModel.resolve(base, revision, vae)
    workers = workers if gateway else 0
    services = plan_services(home, model, addresses, replica=replica, workers=workers)
    run_replica(home, services, addresses, gateway=gateway, report=print_progress)
    return Answer("stopped", {"stopped": True})

"""Build, start, inspect and stop the local cluster.

python -m tests.cluster.local check              check that it can be started now
python -m tests.cluster.local tools [FAMILY …]   build missing and outdated programs
python -m tests.cluster.local up [ADDON …]       start it, or restart ended programs
python -m tests.cluster.local status             show which programs run
python -m tests.cluster.local down               stop it and remove all its files

Exit codes: 0 success; 1 a step failed or a program does not run; 2 this machine or user cannot
run the cluster.
"""

import argparse
import subprocess
import sys
import time

from tests.cluster.local import cluster, packages, tools
from tests.cluster.local.addons import ADDONS
from tests.cluster.local.settings import Settings
from tests.cluster.local.trouble import ClusterTroubleError, NotPossibleHereError


def main() -> int:
    """Run a subcommand and return the exit code."""
    args = _parser().parse_args()
    try:
        return _run(args)
    except NotPossibleHereError as error:
        print(error, file=sys.stderr)
        return 2
    except (ClusterTroubleError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "Interrupted: run the same command to continue, or `down` to clean up.", file=sys.stderr
        )
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.verb == "tools":
        if not args.families:
            packages.install()
        tools.build(args.families or [family.name for family in tools.CLUSTER])
        return 0
    if args.verb == "check":
        if reason := cluster.obstacle():
            raise NotPossibleHereError(reason)
        return 0
    settings = Settings.of_environment()
    if args.verb == "up":
        started = time.monotonic()
        cluster.up(settings, args.addons or tuple(ADDONS))
        print(f"up in {time.monotonic() - started:.0f} s", file=sys.stderr)
        print(settings.kubeconfig)
        return 0
    if args.verb == "down":
        cluster.down(settings)
        return 0
    running = cluster.status(settings)
    for name, is_running in running.items():
        print(f"{'runs' if is_running else 'down':6}{name}")
    return 0 if all(running.values()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.local", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check", help="check that the cluster can be started now")
    build = verbs.add_parser("tools", help="build the cluster's programs")
    names = [family.name for family in tools.FAMILIES]
    build.add_argument("families", nargs="*", metavar="FAMILY", help=f"one of {', '.join(names)}")
    up = verbs.add_parser("up", help="start the cluster, or restart ended programs")
    up.add_argument("addons", nargs="*", metavar="ADDON", help=f"one of {', '.join(ADDONS)}")
    verbs.add_parser("status", help="show which programs run")
    verbs.add_parser("down", help="stop the cluster and remove all its files")
    return parser


if __name__ == "__main__":
    sys.exit(main())

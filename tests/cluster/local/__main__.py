"""Build, bring up, look at and take down the local cluster.

python -m tests.cluster.local check              whether it can be brought up at once
python -m tests.cluster.local tools [FAMILY …]   build what it runs, once for each pin
python -m tests.cluster.local up [ADDON …]       bring it up, or what died of it
python -m tests.cluster.local status             what of it runs
python -m tests.cluster.local down               end it, and remove all it made

Exit codes: 0; 1 when something failed or does not run; 2 when this machine or user cannot.
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
    """Entry point."""
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
        print("Interrupted: the same command goes on, `down` cleans up.", file=sys.stderr)
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
    for name, runs in running.items():
        print(f"{'runs' if runs else 'down':6}{name}")
    return 0 if all(running.values()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.local", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check", help="whether the cluster can be brought up at once")
    build = verbs.add_parser("tools", help="build what the cluster runs")
    names = [family.name for family in tools.FAMILIES]
    build.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(names)}")
    up = verbs.add_parser("up", help="bring the cluster up")
    up.add_argument("addons", nargs="*", metavar="ADDON", help=f"of {', '.join(ADDONS)}")
    verbs.add_parser("status", help="what of it runs")
    verbs.add_parser("down", help="end the cluster and remove all it made")
    return parser


if __name__ == "__main__":
    sys.exit(main())

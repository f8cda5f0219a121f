"""`python -m tests.cluster.images build|ahead|list|clean`."""

import argparse
import signal
import sys
import time

from tests.cluster.images import build as images
from tests.cluster.images.ahead import pull_ahead
from tests.cluster.images.store import ImageError
from tests.cluster.local.settings import Settings
from tests.cluster.local.trouble import ClusterTroubleError


def main() -> int:
    """The exit code: 0 done, 1 a build failed, 2 it cannot be done here."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.images", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="make what has changed, and list what there is")
    build.add_argument("--push", metavar="HOST:PORT", help="then push to this registry (HTTP)")
    build.add_argument("--gpu", action="store_true", help="leave nothing out: a GPU is there")
    build.add_argument("--source", metavar="URL", help="where the sources are, for the label")
    verbs.add_parser("ahead", help="have the local cluster pull them while it comes up")
    verbs.add_parser("list", help="list what there is")
    verbs.add_parser("clean", help="remove every image and what they were made from")
    options = parser.parse_args()
    if (why := images.missing()) is not None:
        print(f"images: {why}", file=sys.stderr)
        return 2
    try:
        if options.verb == "clean":
            images.store().clear()
            return 0
        if options.verb == "ahead":
            # Where no cluster came up, `make e2e` ends this: what is pushing now ends with it.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            pull_ahead(Settings.of_environment())
            return 0
        began = time.monotonic()
        if options.verb == "build":
            images.build(gpu=options.gpu, source=options.source)
        show()
        if options.verb == "build":
            print(f"built in {time.monotonic() - began:.0f} s")
            if options.push:
                for reference in images.push(options.push).values():
                    print(reference)
    except (ImageError, ClusterTroubleError) as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


def show() -> None:
    """Each image with its size, and what all of them take together: shared layers count once."""
    layers: dict[str, int] = {}
    for one in images.built().values():
        print(f"{one.name:18} {one.size / 1e9:6.2f} GB  {one.digest}")
        layers |= {layer.digest: layer.size for layer in one.layers}
    print(f"{'together':18} {sum(layers.values()) / 1e9:6.2f} GB  {len(layers)} layers")


if __name__ == "__main__":
    sys.exit(main())

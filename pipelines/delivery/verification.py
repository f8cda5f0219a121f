"""Whether a released version draws the images that were judged, asked through the gateway."""

import logging
from collections.abc import Callable

from atelier.data.release import Pin, Release
from atelier.errors import Unavailable
from atelier.stores.registry import Registry
from pipelines.delivery.alias import AliasWriter
from pipelines.delivery.image_similarity import ImageMismatch
from pipelines.delivery.smoke import Smoke
from pipelines.evaluate.attestations import JudgedImage, samples

logger = logging.getLogger(__name__)


class Verification:
    """Draws judged images again. One instance serves one environment."""

    def __init__(self, registry: Callable[[], Registry], alias: AliasWriter, smoke: Smoke):
        self._registry = registry
        self._alias = alias
        self._smoke = smoke

    def verify(self, release: Release, pin: Pin, *, compare: bool = True) -> None:
        """Draw once with a version of the release, and log how near the images came.

        Without `compare`, or where no verdict with the release's base and VAE has an image, any
        image of the version is enough. A version that the alias has named before may differ: pixels
        must not delay a way back. Raises ImageMismatch or Refused where the version must not serve,
        Unavailable where a later try may succeed.
        """
        judged = self._judged(release, pin) if compare else ()
        try:
            logger.info("%s", self._smoke(release, pin, judged))
        except ImageMismatch as error:
            if not self._alias.has_named(release, pin):
                raise
            logger.warning("%s (accepted: this version has served here before)", error)

    def _judged(self, release: Release, pin: Pin) -> tuple[JudgedImage, ...]:
        """Images of the version's verdict; none without one, or with the registry away."""
        try:
            return samples(
                self._registry(), release.adapter, pin, base=release.base, vae=release.vae
            )
        except Unavailable:
            return ()

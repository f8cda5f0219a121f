"""Metrics: samples that Prometheus and the Gateway API Inference Extension read."""

import time

from services.engine.stats import EngineStats, metrics


def test_adapters_running_and_waiting_are_in_the_labels() -> None:
    stats = EngineStats(slots=4, running_adapters=("cat", "dog"), waiting_adapters=('a"b',))
    (info,) = (one for one in metrics(stats) if one.name == "lora_requests_info")
    (sample,) = info.samples
    assert sample.labels == (
        ("max_lora", "4"),
        ("running_lora_adapters", "cat,dog"),
        ("waiting_lora_adapters", 'a"b'),
    )
    assert abs(sample.value - time.time()) < 5


def test_every_sample_has_its_kind_and_its_value() -> None:
    stats = EngineStats()
    stats.finished(2)
    stats.called(rows=4, seconds=0.5)
    stats.swapped(0.25)
    found = metrics(stats)
    assert len({one.name for one in found}) == len(found)
    assert all(one.name.endswith("_total") == (one.kind == "counter") for one in found)
    values = {(one.name, each.labels): each.value for one in found for each in one.samples}
    assert values["atelier_engine_images_total", ()] == 2
    assert values["atelier_engine_unet_rows_total", ()] == 4
    assert values["atelier_engine_seconds_total", (("phase", "swap"),)] == 0.25
    assert values["atelier_engine_requests_total", (("outcome", "done"),)] == 1


def test_the_pace_is_that_of_the_last_images() -> None:
    stats = EngineStats()
    assert stats.seconds_per_image() == 1.0
    stats.last_images = [10.0, 12.0, 16.0]
    assert stats.seconds_per_image() == 3.0

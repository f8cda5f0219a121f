"""Metrics: text that Prometheus and the Gateway API Inference Extension read."""

import time

from services.engine.stats import EngineStats, metrics


def test_adapters_running_and_waiting_are_in_the_labels() -> None:
    stats = EngineStats(slots=4, running_adapters=("cat", "dog"), waiting_adapters=('a"b',))
    (line,) = [li for li in metrics(stats).splitlines() if li.startswith("lora_requests_info{")]
    labels, value = line.rsplit(" ", 1)
    assert labels == (
        'lora_requests_info{max_lora="4",running_lora_adapters="cat,dog",'
        'waiting_lora_adapters="a\\"b"}'
    )
    assert abs(float(value) - time.time()) < 5


def test_every_sample_has_its_type_and_parses() -> None:
    stats = EngineStats()
    stats.finished(2)
    stats.called(rows=4, seconds=0.5)
    stats.swapped(0.25)
    typed: dict[str, str] = {}
    values: dict[str, float] = {}
    for line in metrics(stats).splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split()
            typed[name] = kind
        elif not line.startswith("#"):
            sample, value = line.rsplit(" ", 1)
            assert sample.partition("{")[0] in typed
            values[sample] = float(value)
    assert values["atelier_engine_images_total"] == 2
    assert values["atelier_engine_unet_rows_total"] == 4
    assert values['atelier_engine_seconds_total{phase="swap"}'] == 0.25
    assert values['atelier_engine_requests_total{outcome="done"}'] == 1


def test_the_pace_is_that_of_the_last_images() -> None:
    stats = EngineStats()
    assert stats.seconds_per_image() == 1.0
    stats.last_images = [10.0, 12.0, 16.0]
    assert stats.seconds_per_image() == 3.0

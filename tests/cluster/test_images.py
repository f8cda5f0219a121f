"""The images as `python -m tests.cluster.images build` leaves them: what is in them, and that they
run where nothing may be written but /tmp and /var/lib/atelier.
"""

import itertools
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.cluster.images import build as images
from tests.cluster.images import container
from tests.cluster.images.build import Built

ROOT = Path(__file__).resolve().parents[2]
MINIATURE = ROOT / "models" / "miniature"
STARTS = Path(container.__file__).with_name("starts.py")
SHARED = re.compile(
    r"^# ---- identical in Dockerfile.*?^# ---- end of the identical part ----$", re.M | re.S
)
PACKAGES = "opt/atelier/lib/python3.11/site-packages"


def test_both_dockerfiles_begin_alike() -> None:
    """What makes them share their layers."""
    texts = [(ROOT / f"Dockerfile.{name}").read_text() for name in ("train", "serve")]
    parts = [SHARED.findall(text) for text in texts]
    assert [len(found) for found in parts] == [1, 1]
    assert parts[0] == parts[1]


def test_no_dockerfile_names_an_index() -> None:
    for folder in (ROOT, ROOT / "tests/cluster/images"):
        for file in folder.glob("Dockerfile.*"):
            assert not re.search(r"https?://", file.read_text()), file


@pytest.mark.parametrize(
    ("asked", "does"),
    [("", ""), ("tensorrt-cu13==11.2.1.2", "install --python x tensorrt-cu13==11.2.1.2\n")],
)
def test_tensorrt_is_installed_where_it_is_asked_for(asked: str, does: str) -> None:
    """The one package that no lock has a hash of."""
    (line,) = re.findall(r"^  (test .*TENSORRT.*)$", (ROOT / "Dockerfile.train").read_text(), re.M)
    told = {"INSTALL": "echo install --python x --require-hashes", "TENSORRT": asked}
    done = subprocess.run(["sh", "-c", line], check=True, env=told, capture_output=True, text=True)
    assert done.stdout == does


@pytest.fixture(scope="module")
def built() -> dict[str, Built]:
    if (why := images.missing()) is not None:
        pytest.skip(why)
    found = images.built()
    if absent := set(images.NAMES) - found.keys():
        pytest.skip(f"not built: {' '.join(sorted(absent))} (make images)")
    return found


@pytest.fixture(params=images.PRODUCT)
def product(request: pytest.FixtureRequest, built: dict[str, Built]) -> Built:
    return built[request.param]


def test_an_image_says_what_it_is(product: Built) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in product.labels.items()
    }
    assert labels["title"] == product.name
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == version
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["created"])
    assert "source" not in labels
    created = images.store().configuration(f"localhost/{product.name}")["created"]
    assert created == labels["created"]  # the commit's time: a second build is the same


def test_an_image_runs_as_nobody_in_particular(built: dict[str, Built]) -> None:
    for name in built:
        configuration = images.store().configuration(f"localhost/{name}")["config"]
        assert configuration["User"] == "10001:10001"
    for name in images.PRODUCT:
        configuration = images.store().configuration(f"localhost/{name}")["config"]
        assert not configuration.get("Entrypoint")


def test_the_bill_of_materials_names_every_package(product: Built) -> None:
    assert product.sbom is not None
    bill = json.loads(product.sbom.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    named = {one["name"].lower().replace("_", "-"): one["version"] for one in bill["components"]}
    with images.store().mounted(f"localhost/{product.name}") as root:
        assert (root / images.SBOM).read_bytes() == product.sbom.read_bytes()
        folders = [path.name for path in (root / PACKAGES).glob("*.dist-info")]
    installed = [folder.removesuffix(".dist-info").split("-") for folder in folders]
    present = {name.lower().replace("_", "-").replace(".", "-"): v for name, v in installed}
    assert {"torch", "mlflow", "lora-atelier"} <= present.keys()
    named |= {bill["metadata"]["component"]["name"]: bill["metadata"]["component"]["version"]}
    assert {name.replace(".", "-"): version for name, version in named.items()} == present


def test_an_image_has_nothing_of_the_machine_that_built_it(product: Built) -> None:
    with images.store().mounted(f"localhost/{product.name}") as root:
        for name in ("etc/pip.conf", "etc/uv", "source", "tools", "dist", "run/secrets"):
            assert not (root / name).exists(), name
        for name in ("pip", "models"):
            assert not (root / PACKAGES / name).exists(), name
        assert not (root / "opt/atelier/bin/uv").exists()
        assert not list((root / "tmp").iterdir())


def test_a_base_below_both_is_stored_once(built: dict[str, Built]) -> None:
    train, serve = (built[name] for name in images.PRODUCT)
    pairs = zip(train.layers, serve.layers, strict=False)
    # Layers are the same only on the same layers below: from the base up to the first that differs.
    shared = sum(a.size for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    own = train.size + serve.size - 2 * shared
    assert own < 0.2 * shared, f"{shared / 1e9:.2f} GB shared, {own / 1e9:.2f} GB not"


@pytest.fixture(scope="module")
def runtime(built: dict[str, Built]) -> None:
    if shutil.which("runc") is None:
        pytest.skip("not installed: runc (apt-get install)")


def run(name: str, *command: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run it as a restricted pod; its output is in the failure."""
    done = container.run(images.store(), f"localhost/{name}", *command, **options)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stdout
    return done


@pytest.mark.usefixtures("runtime")
def test_only_the_two_volumes_can_be_written(product: Built) -> None:
    script = """
import os, pathlib
assert os.getuid() == os.getgid() == 10001 and not os.getgroups()
for folder in ("/tmp", os.environ["ATELIER_HOME"]):
    pathlib.Path(folder, "file").write_text("x")
for folder in ("/", "/opt/atelier", "/etc", "/var/tmp"):
    try:
        pathlib.Path(folder, "file").write_text("x")
    except OSError:
        continue
    raise SystemExit(folder + " can be written")
"""
    run(product.name, "python", "-c", script)


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    "command",
    [
        ("python", "-c", "import torch, diffusers, transformers, mlflow; print(torch.__version__)"),
        ("atelier", "--help"),
        ("python", "-m", "pipelines.train", "--help"),
        ("python", "-c", "import onnx, onnxruntime, onnxscript, pipelines.compile.unet"),
        ("python", "-m", "pipelines.compile.compile_job", "--help"),
    ],
    ids=lambda command: " ".join(command)[:30],
)
def test_the_training_image_starts(command: tuple[str, ...]) -> None:
    done = run("atelier-train", *command)
    assert "Read-only file system" not in done.stdout


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("http://127.0.0.1:8080/healthz", ("python", "-m", "services.gateway")),
        (
            "http://127.0.0.1:5000/health",
            (
                *("mlflow", "server", "--workers", "1"),
                *("--backend-store-uri", "sqlite:////var/lib/atelier/mlflow.db"),
                *("--artifacts-destination", "/var/lib/atelier/artifacts"),
            ),
        ),
    ],
    ids=["gateway", "mlflow"],
)
def test_the_serving_image_starts(url: str, command: tuple[str, ...]) -> None:
    done = run(
        "atelier-serve", "python", "/starts.py", url, *command, readable={STARTS: "/starts.py"}
    )
    assert "Read-only file system" not in done.stdout


@pytest.mark.usefixtures("runtime")
def test_triton_draws_with_a_base_that_is_mounted(tmp_path: Path) -> None:
    """Triton imports from the folder it is started in, too: no data may lie there."""
    base = shutil.copytree(MINIATURE, tmp_path / "base", copy_function=shutil.copyfile)
    done = run(
        "atelier-serve",
        *("python", "/starts.py", "--draw", "http://127.0.0.1:8000/v2/models/atelier/ready"),
        *("python", "-m", "services.triton"),
        environment={"ATELIER_BASE": "/mnt/models", "OMP_NUM_THREADS": "1"},
        readable={STARTS: "/starts.py", base: "/mnt/models"},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["shape"] == [1, 128, 128, 3]
    assert found["colours"] > 50
    assert found["exit"] == 0
    assert "Read-only file system" not in done.stdout


@pytest.mark.usefixtures("runtime")
def test_postgres_makes_its_database_and_keeps_strangers_out() -> None:
    script = """
/usr/local/bin/postgres.sh postgres & server=$!
until pg_isready -q -h 127.0.0.1; do kill -0 $server && sleep 0.2; done
PGPASSWORD=secret psql -h 127.0.0.1 -U ada -d usage -Atc "select 'asked as ' || current_user"
if PGPASSWORD=wrong psql -h 127.0.0.1 -U ada -d usage -c 'select 1' 2>&1; then exit 1; fi
kill -INT $server && wait $server
exec /usr/local/bin/postgres.sh postgres --version
"""
    done = run(
        "atelier-postgres",
        *("sh", "-euc", script),
        environment={"POSTGRES_USER": "ada", "POSTGRES_PASSWORD": "secret", "POSTGRES_DB": "usage"},
        volumes=("/tmp", "/var/run/postgresql", "/var/lib/postgresql/data"),
    )
    assert "asked as ada" in done.stdout
    assert "password authentication failed" in done.stdout

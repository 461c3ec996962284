"""The images: linted always; the CPU one built on a home-made Debian and trained in, where that is asked for."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY

DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
TOOLS = ("buildah", "mmdebstrap")
CERTIFICATES = Path("/usr/local/share/ca-certificates")
"""A proxy's, which the base must trust as this machine does."""
WHOLE = os.environ.get("DELTA_TEST_IMAGES") == "1"

Buildah = Callable[..., subprocess.CompletedProcess[str]]


def test_dockerfiles_are_clean():
    hadolint = Path(sys.executable).with_name("hadolint")
    assert [path.name for path in DOCKERFILES] == ["Dockerfile.cpu", "Dockerfile.cuda"]
    linted = subprocess.run([hadolint, "--no-color", *DOCKERFILES], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")


def succeed(words: Sequence[str | Path], **options) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(words, capture_output=True, text=True, **options)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    return finished


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """Buildah with a storage of its own, that is gone afterwards; a Debian base is in it."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"images are built by root with {' and '.join(TOOLS)}; missing: {', '.join(missing) or 'root'}")
    folder = tmp_path_factory.mktemp("images")
    base = folder / "base"
    (base / "ca").mkdir(parents=True)
    made = subprocess.run(["mmdebstrap", "--variant=minbase", "bookworm", base / "base.tar"], capture_output=True)
    if made.returncode:
        pytest.skip(f"no Debian can be fetched: {made.stderr.decode().strip().splitlines()[-1]}")
    for path in CERTIFICATES.glob("*.crt"):
        shutil.copy(path, base / "ca")
    (base / "Dockerfile").write_text(f"FROM scratch\nADD base.tar /\nCOPY ca {CERTIFICATES}\n")

    def run(*words: str | Path, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        command = ["buildah", "--root", folder / "root", "--runroot", folder / "run", *words]
        # Caches of RUN --mount are kept in the folder for temporary files.
        return succeed(command, cwd=ROOT, timeout=timeout_s, env={**os.environ, "TMPDIR": str(folder)})

    run("build", "--isolation", "chroot", "--tag", "base", base)
    (base / "base.tar").unlink()
    yield run
    run("rm", "--all")
    run("rmi", "--all", "--force")
    shutil.rmtree(folder, ignore_errors=True)


def build(buildah: Buildah, *options: str) -> None:
    """Build the CPU image, fetching wheels from where this environment has them."""
    uv = Path(sys.executable).with_name("uv")
    cache = succeed([uv, "cache", "dir"]).stdout.strip()
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.find-links"], capture_output=True, text=True
    )
    links = os.environ.get("PIP_FIND_LINKS") or configured.stdout.strip()
    words = ["--isolation", "chroot", "--network", "host", "--build-arg", "BASE_IMAGE=localhost/base"]
    # The wheels that made this environment are still in uv's cache; nothing is written to it.
    words += ["--build-arg", "UV_CACHE_DIR=/mnt/uv-cache", "--volume", f"{cache}:/mnt/uv-cache:O"]
    for name, value in (("PIP_FIND_LINKS", links), ("PIP_INDEX_URL", os.environ.get("PIP_INDEX_URL", ""))):
        words += ["--build-arg", f"{name}={value}"] if value else []
    words += [word for link in links.split() if Path(link).is_dir() for word in ("--volume", f"{link}:{link}:ro")]
    buildah("build", *words, *options, "--file", "docker/Dockerfile.cpu", ".")


@pytest.mark.image
@pytest.mark.slow
@pytest.mark.alone
def test_our_package_is_built_on_a_home_made_base(buildah: Buildah):
    """The cheap stages: what is in the build context is all that the package needs."""
    build(buildah, "--target", "package", "--tag", "package")
    container = buildah("from", "localhost/package").stdout.strip()
    listed = buildah(
        "run",
        "--isolation",
        "chroot",
        container,
        "--",
        "python3",
        "-m",
        "zipfile",
        "-l",
        "/wheels/" + wheel(buildah, container),
    ).stdout
    for name in (
        "launch/doctor/catalogue.py",
        "workers/learner/engine.py",
        "conf/train.yaml",
        "conf/experiment/laptop.yaml",
    ):
        assert name in listed
    assert "tests/" not in listed


def wheel(buildah: Buildah, container: str) -> str:
    return buildah("run", "--isolation", "chroot", container, "--", "ls", "/wheels").stdout.strip()


@pytest.mark.image
@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not WHOLE, reason="some minutes and 10 GB of disk: make test-images, or DELTA_TEST_IMAGES=1")
def test_the_laptop_job_runs_in_the_cpu_image_and_its_init_passes_on_sigterm(buildah: Buildah):
    build(buildah, "--tag", "cpu", "--build-arg", "REVISION=abc")
    container = buildah("from", "localhost/cpu").stdout.strip()
    settings = json.loads(buildah("inspect", container).stdout)["OCIv1"]["config"]
    assert settings["User"] == "1001"
    assert settings["Cmd"] == ["delta-doctor"]
    assert settings["Labels"]["org.opencontainers.image.revision"] == "abc"

    def inside(*words: str) -> subprocess.CompletedProcess[str]:
        return buildah("run", "--isolation", "chroot", container, "--", *words)

    assert inside("id", "-u").stdout.strip() == "1001"
    assert "gcc" not in inside("ls", "/usr/bin").stdout
    told = json.loads(inside("delta-doctor", "--fast", "--json", *TINY).stdout)
    assert told["can_run"] is True

    entry = " ".join(settings["Entrypoint"])
    train = f"{entry} delta-train experiment=laptop steps=500 {' '.join(TINY)} run_dir=run"
    script = (
        f"{train} & until [ -s run/metrics.jsonl ]; do kill -0 $! || exit 1; sleep 0.2; done; kill $!; wait $!; echo $?"
    )
    finished = inside("bash", "-c", script).stdout
    assert finished.splitlines()[-1] == "75", finished
    assert inside("ls", "run/checkpoints").stdout.startswith("step-")

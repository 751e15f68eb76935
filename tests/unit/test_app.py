"""`unmask app`, used through a browser as a person would."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import unmask
from records import write_bundle

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver"),
    pytest.mark.serial,  # a browser, the app and its workers need both cores
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The folder for temporary files of the app."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@pytest.fixture
def address(bundle: Path, temporary: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "unmask", "app", "--bundle", str(bundle)]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(
        [*command, "--max-megabytes", "1"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[0]
        process.terminate()
        process.communicate(timeout=60)
    assert not list(temporary.glob("unmask-app-*"))


def test_a_video_is_uploaded_predicted_and_deleted(
    address: str, bundle: Path, temporary: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    assert address.startswith("http://127.0.0.1:")
    clip = make_video(tmp_path / "clip.mp4", frames=8)
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(2_000_000))
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=390,800"):
        options.add_argument(f"--{argument}")
    with Chrome(options, ChromeService(str(DRIVER))) as browser:
        wait = WebDriverWait(browser, 180)
        browser.get(address)
        field = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "input[type=file]"))
        field.send_keys(str(large))
        wait.until(lambda b: "exceed the maximum" in b.find_element(By.TAG_NAME, "body").text)
        browser.get(address)
        field = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "input[type=file]"))
        field.send_keys(str(clip))
        wait.until(lambda b: b.find_element(By.TAG_NAME, "iframe"))
        browser.switch_to.frame(browser.find_element(By.TAG_NAME, "iframe"))
        number = wait.until(lambda b: b.find_element(By.ID, "probability")).text
        timeline = browser.find_element(By.CLASS_NAME, "timeline")
        assert int(timeline.get_property("naturalWidth") or 0) > 100
        body = browser.find_element(By.TAG_NAME, "body")
        assert int(body.get_property("scrollWidth") or 0) <= 390
    assert number == f"{unmask.load(bundle).predict(clip).probability:.3f}"
    assert not list(temporary.rglob("*.mp4"))

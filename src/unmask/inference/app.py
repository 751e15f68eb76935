"""The command `app`: a page on this machine to drop a video on."""

from __future__ import annotations

import html
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unmask.errors import UnmaskError
from unmask.inference.detector import DeepfakeDetector, load_detector
from unmask.inference.page import PICTURE_SIDE, create_entry, render_prediction_page

_ADDRESS = "127.0.0.1"
_INTRODUCTION = """# Was a face in this video manipulated?
Drop a video of at most {megabytes} MB. It stays on this machine, and is deleted after the
prediction."""
# Seconds between two searches for uploads that nobody waits for, and their age.
_CLEANING = (60, 600)


def serve_app(
    bundle: Path = Path("results/kaggle/unmask"),
    port: int | None = None,
    max_megabytes: int = 500,
    max_seconds: float = 300,
    device: str | None = None,
) -> None:
    """Serve a page on this machine to drop a video on, until Ctrl-C.

    Args:
        bundle: the folder that the workflow exports.
        port: by default the first free one from 7860.
        max_megabytes: size of the largest video.
        max_seconds: that decoding a video and finding its faces may take.
        device: for example "cpu" or "cuda:1"; by default the GPU if there is one that works.

    Raises:
        UnmaskError: Gradio is not installed, the folder is not a bundle, or the port is taken.
    """
    # Without these, Gradio reports its use and asks the internet for its newest version.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    try:
        import gradio
    except ImportError:
        raise UnmaskError("app: needs Gradio; pip install 'gradio>=6,<7'") from None
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio's requests to itself
    detector = load_detector(bundle, device, workers=1)
    config = detector.bundle.config
    limits = config.limits.model_copy(update={"seconds": max_seconds})
    limited = config.model_copy(update={"limits": limits})
    detector.bundle = replace(detector.bundle, config=limited)
    with TemporaryDirectory(prefix="unmask-app-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        # Ends like Ctrl-C, so that the folder is removed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        page = _create_page(gradio, detector, max_megabytes)
        try:
            _, url, _ = page.launch(
                server_name=_ADDRESS,
                server_port=port,
                max_file_size=f"{max_megabytes}mb",
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"]),
                footer_links=[],
                prevent_thread_lock=True,
                quiet=True,
            )
        except OSError as error:  # Gradio's has no errno
            raise UnmaskError(f"--port {port}: {error}") from None
        print(f"{url} (Ctrl-C ends it)", flush=True)
        page.block_thread()


def _create_page(gradio: Any, detector: DeepfakeDetector, megabytes: int) -> Any:
    def predict(upload: str | None) -> str:
        return "" if upload is None else predict_upload(detector, Path(upload))

    with gradio.Blocks(title="unmask", delete_cache=_CLEANING, analytics_enabled=False) as page:
        gradio.Markdown(_INTRODUCTION.format(megabytes=megabytes))
        upload = gradio.File(label="Video", file_types=["video"], type="filepath")
        result = gradio.HTML()
        upload.upload(predict, upload, result, api_name=False, concurrency_limit=1)
    return page


def predict_upload(detector: DeepfakeDetector, upload: Path) -> str:
    """Return the page of `unmask predict` in a frame, and delete the file."""
    try:
        (examined,) = detector.examine([upload], PICTURE_SIDE)
        content = render_prediction_page(detector, [create_entry(detector, examined)])
    finally:
        upload.unlink(missing_ok=True)
    fit = "this.style.height = this.contentDocument.documentElement.scrollHeight + 'px'"
    style = "width: 100%; height: 80vh; border: 0"
    return f'<iframe srcdoc="{html.escape(content)}" onload="{fit}" style="{style}"></iframe>'

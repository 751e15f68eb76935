"""What is certain to fail is refused before a video is opened, and odd entries are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask.audits.metadata import check_metadata
from unmask.config import SplitConfig
from unmask.errors import UnmaskError

MakePart = Callable[..., Path]
FAMILIES = {f"{number:03d}.mp4": "REAL" for number in range(5)}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {f"x{number}.mp4": {"label": "maybe"} for number in range(5)},
            r"5 of 10 .*'maybe'.*: 5 \(one/x0.mp4, one/x1.mp4, one/x2.mp4 …\)",
        ),
        ({"one/a.mp4": "REAL"}, r"1 of 6 .* file name: 1 \(one/one/a\.mp4\)"),
        (dict.fromkeys(FAMILIES, "FAKE"), r"data_root: .*REAL.*5 FAKE"),
        ({"004.mp4": "000.mp4"}, r"split\.folds: 5 folds .* families .*are 4"),
    ],
)
def test_what_no_model_can_be_trained_on_is_refused(
    entries: dict[str, Any], message: str, make_part: MakePart, tmp_path: Path
) -> None:
    part = make_part(tmp_path / "one", FAMILIES | entries)
    with pytest.raises(UnmaskError, match=message):
        check_metadata([part], SplitConfig(folds=5), tmp_path / "metadata.json")


def test_a_damaged_entry_of_many_and_unusual_labels_are_warned_of(
    make_part: MakePart, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    many = {f"{number:03d}.mp4": "REAL" for number in range(200)}
    odd = {"no_label.mp4": {}, "f.mp4": {"label": 1, "original": "000"}}
    parts = [make_part(tmp_path / "one", many), make_part(tmp_path / "two", odd)]
    check_metadata(parts, SplitConfig(), tmp_path / "metadata.json")
    assert "1 of 202" in caplog.text
    assert "two/no_label.mp4" in caplog.text
    assert "label 1 is FAKE: 1 (two/f.mp4)" in caplog.text
    counts = json.loads((tmp_path / "metadata.json").read_text())
    assert (counts["real"], counts["fake"], counts["unusable"]) == (200, 1, 1)
    assert (counts["groups"], counts["originals"]["other_part"]) == (200, 1)

"""The original of a fake is found in any part, and never taken for another video of its name."""

import pandas as pd
import pytest

from unmask.videos.originals import find_originals

REALS = [("a", "1.mp4"), ("b", "1.mp4"), ("b", "2.mp4"), ("b", "3.mp4"), ("c", "3.avi")]


@pytest.mark.parametrize(
    ("fake", "original", "found", "family", "where"),
    [
        ("a/f.mp4", "1.mp4", "1.mp4", "a/1.mp4", "own_part"),
        ("b/f.mp4", "1.mp4", "1.mp4", "b/1.mp4", "own_part"),
        ("a/f.mp4", "2.mp4", "2.mp4", "2.mp4", "other_part"),
        ("a/2.mp4", "2.mp4", "2.mp4", "2.mp4", "other_part"),  # a fake called like its original
        ("a/f.mp4", "2", "2.mp4", "2.mp4", "other_part"),
        ("b/f.mp4", "3", "3.mp4", "3.mp4", "own_part"),
        ("a/f.mp4", "3", "3", "3", "ambiguous"),
        ("c/f.mp4", "1.mp4", "1.mp4", "1.mp4", "ambiguous"),
        ("a/f.mp4", "4.mp4", "4.mp4", "4.mp4", "absent"),
        ("a/f.mp4", "f.mp4", "f.mp4", "f.mp4", "absent"),
        ("a/f.mp4", None, None, "f.mp4", "unnamed"),
        ("a/2.mp4", None, None, "a/2.mp4", "unnamed"),  # not of the family of b/2.mp4
    ],
)
def test_an_original_is_found_by_its_name(
    fake: str, original: str | None, found: str | None, family: str, where: str
) -> None:
    rows = [(part, video, "REAL", None) for part, video in REALS]
    rows.append((*fake.split("/"), "FAKE", original))
    videos = pd.DataFrame(rows, columns=["part", "video", "label", "original"])
    videos, counts = find_originals(videos)
    assert (videos["original"].iloc[-1], videos["family"].iloc[-1]) == (found, family)
    assert getattr(counts, where) == 1
    assert counts.found == (where in ("own_part", "other_part"))
    families = dict(zip(videos["part"] + "/" + videos["video"], videos["family"], strict=True))
    assert (families["a/1.mp4"], families["b/1.mp4"]) == ("a/1.mp4", "b/1.mp4")


def test_fakes_whose_original_is_ambiguous_are_counted_and_named() -> None:
    rows = [(part, "x.mp4", "REAL", None) for part in "ab"]
    rows += [("c", f"{number}.mp4", "FAKE", "x.mp4") for number in range(5)]
    videos = pd.DataFrame(rows, columns=["part", "video", "label", "original"])
    text = find_originals(videos)[1].ambiguity()
    assert "5 fakes" in text
    assert "0.mp4, 1.mp4, 2.mp4" in text

"""An epoch shows what its kind of batch promises, in any number of processes, import re
from any step."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.config import Mixture, TrainingConfig
from unmask.errors import UnmaskError
from unmask.training.sampler import (
    BLENDED,
    Crops,
    EpochSampler,
    SampleId,
    choose_mixture,
    describe_epoch,
    draw_epoch,
    explain_auto,
    pair_faces,
    sample_seed,
)

labels = st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda ls: len(set(ls)) == 2)


def crops_of(
    fakes: list[bool],
    originals: dict[int, int] | None = None,
    sources: list[int] | None = None,
    groups: list[int] | None = None,
) -> Crops:
    """Return crops of the given labels; `originals` maps rows of fakes to rows of originals."""
    rows = np.full(len(fakes), -1)
    for fake, original in (originals or {}).items():
        rows[fake] = original
    fake = np.array(fakes)
    none = [0] * len(fakes)
    return Crops(
        fake.astype(np.float32), ~fake, rows, np.array(sources or none), np.array(groups or none)
    )


def shown(crops: Crops, epoch: int = 0, seed: int = 1, **keys: Any) -> list[SampleId]:
    sampler = EpochSampler(crops, TrainingConfig(**{"batch_size": 2, **keys}), seed)
    sampler.set_epoch(epoch)
    samples = list(sampler)
    assert len(samples) == len(sampler)
    assert {sample.epoch for sample in samples} == {epoch}
    return samples


@given(fakes=labels, seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_a_balanced_epoch_shows_all_of_the_rarer_class_and_as_many_others(
    fakes: list[bool], seed: int, epoch: int
) -> None:
    samples = shown(crops_of(fakes), epoch, seed, batches="balanced")
    rows = [sample.row for sample in samples]
    assert len(set(rows)) == len(rows)
    kinds = [fakes[row] for row in rows]
    assert kinds.count(True) == kinds.count(False) == min(fakes.count(True), fakes.count(False))
    assert samples == shown(crops_of(fakes), epoch, seed, batches="balanced")


@given(fakes=labels, seed=st.integers(0, 99))
def test_a_plain_epoch_shows_everything_once_but_an_incomplete_step(
    fakes: list[bool], seed: int
) -> None:
    rows = [sample.row for sample in shown(crops_of(fakes), seed=seed, batches="plain")]
    assert len(set(rows)) == len(rows) == len(fakes) // 2 * 2


def test_every_epoch_draws_other_crops() -> None:
    crops = crops_of([False] * 10 + [True] * 200, {10 + fake: fake % 10 for fake in range(200)})
    for batches in ("balanced", "paired"):
        epochs = [set(shown(crops, epoch, batches=batches)) for epoch in range(3)]
        kept = [{(one.row, one.partner) for one in epoch} for epoch in epochs]
        assert all(set(range(10)) <= {row for row, _ in pairs} for pairs in kept)
        assert kept[0] != kept[1] != kept[2]


def test_a_paired_epoch_shows_each_original_once_with_one_of_its_own_fakes() -> None:
    originals = {4: 0, 5: 0, 6: 1, 7: 3}
    crops = crops_of([False] * 4 + [True] * 5, originals)
    samples = shown(crops, batches="paired")
    assert {sample.row for sample in samples} == {0, 1, 3}
    assert all(originals[sample.partner] == sample.row for sample in samples)


def test_a_self_blended_epoch_pairs_each_real_crop_with_itself() -> None:
    samples = shown(crops_of([True, False, True, False]), batches="self_blended")
    assert {(one.row, one.partner) for one in samples} == {(1, BLENDED), (3, BLENDED)}


def kinds_of(samples: list[SampleId], originals: dict[int, int]) -> list[str]:
    return [
        "self_blended"
        if one.partner == BLENDED
        else "pairs"
        if originals.get(one.partner) == one.row
        else "unpaired"
        for one in samples
    ]


def test_a_mixture_has_the_shares_that_it_names() -> None:
    originals = {400 + row: row for row in range(150)}
    crops = crops_of([False] * 400 + [True] * 300, originals)
    mixture = Mixture(pairs=1, self_blended=2, unpaired=1)
    kinds = kinds_of(shown(crops, batches=mixture), originals)
    assert [kinds.count(kind) for kind in ("pairs", "self_blended", "unpaired")] == [100, 200, 100]


def test_kinds_without_a_crop_leave_their_share_to_the_others() -> None:
    crops = crops_of([False] * 40 + [True] * 30)
    kinds = kinds_of(shown(crops, batches=Mixture(pairs=5, self_blended=1, unpaired=3)), {})
    assert (kinds.count("self_blended"), kinds.count("unpaired")) == (10, 30)


def test_a_fake_without_original_is_next_to_a_real_crop_of_its_source_if_there_is_one() -> None:
    reals, fakes = [0] * 30 + [1] * 10, [0] * 5 + [1] * 5 + [2] * 5
    crops = crops_of([False] * 40 + [True] * 15, sources=reals + fakes)
    samples = shown(crops, batches=Mixture(unpaired=1))
    assert {one.partner for one in samples} == set(range(40, 55))
    for real, fake in ((one.row, one.partner) for one in samples):
        assert crops.sources[real] == crops.sources[fake] or crops.sources[fake] == 2


def families(pairs: int, unpaired: int, reals: int = 1000) -> Crops:
    """Return one crop each of REAL videos, of fakes of the first of them, and of other fakes."""
    fakes = [False] * reals + [True] * (pairs + unpaired)
    originals = {reals + row: row for row in range(pairs)}
    groups = [*range(reals), *range(pairs), *range(reals, reals + unpaired)]
    return crops_of(fakes, originals, groups=groups)


@pytest.mark.parametrize(
    ("pairs", "unpaired", "low", "high"),
    [
        (0, 0, 0, 0),
        (12, 0, 0.03, 0.1),
        (100, 0, 0.3, 0.4),
        (5000, 0, 0.6, 0.7),
        (12, 50, 0.03, 0.1),
    ],
)
def test_auto_gives_pairs_a_share_that_grows_with_their_families(
    pairs: int, unpaired: int, low: float, high: float
) -> None:
    mixture = choose_mixture(families(pairs, unpaired, max(pairs, 1000)), "auto")
    assert low <= mixture.pairs <= high
    assert mixture.self_blended > 0.3
    assert (mixture.unpaired > 0) == (unpaired > 0)
    assert mixture.pairs + mixture.self_blended + mixture.unpaired == pytest.approx(1)


def test_auto_trains_on_real_crops_alone() -> None:
    assert set(kinds_of(shown(crops_of([False] * 8)), {})) == {"self_blended"}


def test_a_large_source_has_a_share_that_grows_with_the_square_root_of_its_size() -> None:
    sources = [0] * 900 + [1] * 100
    samples = shown(crops_of([False] * 1000, sources=sources), batches="self_blended")
    of_source = [sources[one.row] for one in samples]
    assert of_source.count(0) == 750  # 30 : 10
    assert len({one.row for one in samples}) == 850  # all of the small one, 2 or 3 times each


def test_so_has_a_person_with_many_videos() -> None:
    groups = [0] * 400 + [1 + row // 4 for row in range(400)]
    samples = shown(crops_of([False] * 800, groups=groups), batches="self_blended")
    counts = np.bincount([groups[one.row] for one in samples])
    assert counts[0] == pytest.approx(800 * 20 / 220, abs=1)
    assert set(counts[1:]) <= {7, 8}


def test_a_row_that_an_epoch_shows_twice_is_augmented_twice() -> None:
    sources = [0] * 90 + [1] * 10
    samples = shown(crops_of([False] * 100, sources=sources), batches="self_blended")
    assert len({one.number for one in samples}) == len(samples) == 100


def test_the_log_says_what_an_epoch_consists_of() -> None:
    faces = pd.DataFrame(
        [face(name, name) | {"source": "web"} for name in "abcdefgh"]
        + [face("x", "a") | {"source": "web"}, face("y", "gone") | {"source": "film"}]
    )
    crops = Crops.of(faces.assign(group=faces["family"]), (faces["label"] == "FAKE").to_numpy())
    mixture = Mixture(pairs=2, self_blended=5, unpaired=1)
    units = draw_epoch(crops, mixture, np.random.default_rng(0))
    text = describe_epoch(faces, crops, units)
    assert "8 x 62% a REAL crop and itself blended (5 groups)" in text
    assert "25% an original and its fake (1 groups)" in text
    assert "12% a fake and another REAL crop (1 groups)" in text
    assert "sources: web 100%" in text
    assert "1 of 2 FAKE crops (1 videos)" in text


@pytest.mark.parametrize(
    ("fakes", "shares", "counts"),
    [
        ([], "pairs: 0.00, self_blended: 1.00, unpaired: 0.00", (0, 0)),
        ([("x", "a")], "pairs: 0.01, self_blended: 0.99, unpaired: 0.00", (1, 0)),
        ([("y", "gone")], "pairs: 0.00, self_blended: 1.00, unpaired: 0.00", (0, 1)),
    ],
)
def test_auto_finds_something_to_show_and_says_why(
    fakes: list[tuple[str, str]], shares: str, counts: tuple[int, int]
) -> None:
    faces = pd.DataFrame([face(name, name) for name in "ab"] + [face(*one) for one in fakes])
    faces = faces.assign(source="web", group=faces["family"])
    crops = Crops.of(faces, (faces["label"] == "FAKE").to_numpy())
    text = explain_auto(crops)
    assert shares in text
    assert all(f" {count} " in text.partition("because")[2] for count in counts)
    assert len(EpochSampler(crops, TrainingConfig(batches="auto", batch_size=2), 1)) == 2


@pytest.mark.parametrize("batches", ["plain", "balanced", "auto"])
@given(count=st.integers(8, 70), processes=st.sampled_from([1, 2, 4]), epoch=st.integers(0, 3))
def test_processes_share_every_step_of_one_process(
    batches: str, count: int, processes: int, epoch: int
) -> None:
    crops = crops_of([False, True] * count, {2 * row + 1: 2 * row for row in range(count)})
    config = TrainingConfig(batches=batches, batch_size=16)
    alone = EpochSampler(crops, config, 1)
    alone.set_epoch(epoch)
    expected = list(alone)
    per_step = len(expected) // alone.steps
    ranks = []
    for rank in range(processes):
        sampler = EpochSampler(crops, config, 1, rank, processes)
        sampler.set_epoch(epoch)
        assert sampler.steps == alone.steps
        assert len(list(sampler)) == len(sampler) == alone.steps * sampler.batch_size
        ranks.append(np.array(list(sampler)).reshape(alone.steps, -1, 4))
    for step in range(alone.steps):
        together = {tuple(one) for own in ranks for one in own[step].tolist()}
        assert together == set(expected[step * per_step : (step + 1) * per_step])


def test_an_epoch_resumes_in_the_middle_and_the_next_starts_at_its_beginning() -> None:
    crops = crops_of([False, True] * 20)
    config = TrainingConfig(batch_size=4, batches="balanced")
    for processes in (1, 2):
        whole = EpochSampler(crops, config, 1, 0, processes)
        whole.set_epoch(3)
        expected = list(whole)
        resumed = EpochSampler(crops, config, 1, 0, processes)
        resumed.start_at(3, 7)
        resumed.set_epoch(3)
        assert list(resumed) == expected[7 * 4 // processes :]
        assert len(resumed) == len(expected)
        resumed.set_epoch(4)
        whole.set_epoch(4)
        assert list(resumed) == list(whole)


def test_an_epoch_smaller_than_a_step_is_one_step() -> None:
    sampler = EpochSampler(
        crops_of([False, True] * 3), TrainingConfig(batch_size=32, batches="balanced"), 1
    )
    assert (len(list(sampler)), sampler.steps) == (6, 1)


@pytest.mark.parametrize(
    ("crops", "batches", "processes", "message"),
    [
        (crops_of([False, True]), "paired", 1, "training.batches: paired"),
        (crops_of([True, True]), "self_blended", 1, "training.batches: self_blended"),
        (crops_of([False, True] * 8), "plain", 3, "training.batch_size: 3 processes"),
        (crops_of([False, True]), "plain", 4, "training.batch_size: 4 processes"),
    ],
)
def test_an_epoch_that_cannot_be_is_refused(
    crops: Crops, batches: str, processes: int, message: str
) -> None:
    config = TrainingConfig(batches=batches, batch_size=16)
    with pytest.raises(UnmaskError, match=message):
        EpochSampler(crops, config, 1, 0, processes)


def test_seeds_of_samples_are_the_same_on_every_machine() -> None:
    seeds = [sample_seed(1, 0, 0), sample_seed(1, 0, 1), sample_seed(1, 1, 0)]
    assert seeds == [1835504127, 1501029259, 1189033389]


def face(video: str, family: str, time: float = 0.0, **keys: float) -> dict[str, Any]:
    label = "REAL" if video == family else "FAKE"
    square = {"track": 0, "crop_x0": 100.0, "crop_y0": 50.0, "crop_side": 100.0}
    return {"part": "p", "video": video, "family": family, "time": time, "label": label} | (
        square | keys
    )


@pytest.mark.parametrize(
    ("original", "fake", "pairs"),
    [
        ({}, {}, True),
        ({"time": 0.5}, {"time": 0.7}, True),
        ({"time": 0.5}, {"time": 1.1}, False),
        ({}, {"crop_x0": 110.0}, True),  # IoU 0.82
        ({}, {"crop_x0": 130.0}, False),  # IoU 0.54
        ({}, {"crop_side": 80.0}, False),  # IoU 0.64
    ],
)
def test_a_pair_is_of_the_same_moment_and_square(
    original: dict[str, float], fake: dict[str, float], pairs: bool
) -> None:
    faces = pd.DataFrame([face("fake", "real", **fake), face("real", "real", **original)])
    assert pair_faces(faces).tolist() == [1 if pairs else -1, -1]


def test_of_two_people_the_one_in_the_same_place_is_the_pair() -> None:
    faces = pd.DataFrame(
        [
            face("real", "real", track=0, crop_x0=500.0),
            face("real", "real", track=1, crop_x0=104.0),
            face("fake", "real", track=0),
            face("fake", "real", track=1, crop_x0=500.0),
            face("other", "absent"),
            face("twin", "twin"),
        ]
    )
    assert pair_faces(faces).tolist() == [-1, -1, 1, 0, -1, -1]


def test_an_original_may_be_in_another_part() -> None:
    faces = pd.DataFrame([face("real", "real"), face("fake", "real") | {"part": "q"}])
    assert pair_faces(faces).tolist() == [-1, 0]

"""An epoch shows what its kind of batch promises, in any number of processes, from any step."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.config import TrainingConfig
from unmask.errors import UnmaskError
from unmask.training.sampler import (
    ALONE,
    BLENDED,
    Crops,
    EpochSampler,
    SampleId,
    pair_faces,
    sample_seed,
)

labels = st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda ls: len(set(ls)) == 2)


def crops_of(fakes: list[bool], originals: dict[int, int] | None = None) -> Crops:
    """Return crops of the given labels; `originals` maps rows of fakes to rows of originals."""
    rows = np.full(len(fakes), -1)
    for fake, original in (originals or {}).items():
        rows[fake] = original
    fake = np.array(fakes)
    return Crops(fake.astype(np.float32), ~fake, rows)


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


def test_some_pairs_are_blended_and_all_real_crops_without_a_fake() -> None:
    fakes = [False] * 400 + [True] * 300
    crops = crops_of(fakes, {400 + row: row for row in range(300)})
    samples = shown(crops, batches="paired", blended=0.25)
    assert {one.row for one in samples} == set(range(400))
    partners = {one.row: one.partner for one in samples}
    assert all(partners[row] == BLENDED for row in range(300, 400))
    assert 0.15 < np.mean([partners[row] == BLENDED for row in range(300)]) < 0.35
    assert ALONE not in partners.values()


@pytest.mark.parametrize("batches", ["plain", "balanced", "paired", "self_blended"])
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
        ranks.append(np.array(list(sampler)).reshape(alone.steps, -1, 3))
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


def test_parts_may_use_the_same_names() -> None:
    faces = pd.DataFrame([face("real", "real"), face("fake", "real") | {"part": "q"}])
    assert pair_faces(faces).tolist() == [-1, -1]

"""Shards are plain tar archives, read at random by offset."""

import multiprocessing
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from unmask.errors import UnmaskError
from unmask.faces.shards import ShardReader, write_shard


def write_random_shard(path: Path) -> dict[str, tuple[bytes, int]]:
    rng = np.random.default_rng(0)
    # Sizes around tar's block of 512 bytes, and a name that needs an extended header.
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", f"{'ü' * 120}.jpg", "e.jpg"]
    sizes = [1, 511, 512, 513, 5000, 0]
    written = {}
    with write_shard(path) as writer:
        for name, size in zip(names, sizes, strict=True):
            payload = rng.bytes(size)
            written[name] = (payload, writer.add(name, payload))
    return written


def test_a_shard_is_a_tar_and_offsets_point_at_its_members(tmp_path: Path) -> None:
    written = write_random_shard(tmp_path / "new/a.tar")
    with tarfile.open(tmp_path / "new/a.tar") as tar:
        assert tar.getnames() == list(written)
        for member in tar:
            payload, offset = written[member.name]
            assert offset == member.offset_data
            assert tar.extractfile(member).read() == payload  # type: ignore[union-attr]


def test_equal_crops_make_equal_bytes(tmp_path: Path) -> None:
    write_random_shard(tmp_path / "a.tar")
    write_random_shard(tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_shard_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with write_shard(tmp_path / "a.tar") as writer:
            writer.add("a.jpg", b"crop")
            assert not (tmp_path / "a.tar").exists()
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_an_absent_or_short_shard_is_named(tmp_path: Path) -> None:
    write_random_shard(tmp_path / "a.tar")
    size = (tmp_path / "a.tar").stat().st_size
    reader = ShardReader(tmp_path)
    with pytest.raises(UnmaskError, match=r"b\.tar: no such shard; rerun crop_faces"):
        reader.read("b.tar", 0, 10)
    with pytest.raises(UnmaskError, match=rf"a\.tar: ends before byte {size + 5}"):
        reader.read("a.tar", size - 5, 10)


def read_one(reader: ShardReader, offset: int, size: int) -> bytes:
    return reader.read("a.tar", offset, size)


def test_a_reader_in_use_can_be_sent_to_another_process(tmp_path: Path) -> None:
    payload, offset = write_random_shard(tmp_path / "a.tar")["d.jpg"]
    reader = ShardReader(tmp_path)
    assert read_one(reader, offset, len(payload)) == payload
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_one, (reader, offset, len(payload))) == payload
    assert pickle.loads(pickle.dumps(reader)).read("a.tar", offset, len(payload)) == payload

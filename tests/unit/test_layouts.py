"""`unmask import`: published layouts, and those of people, become parts of links."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from unmask.errors import UnmaskError
from unmask.videos.import_videos import Imported, all_layouts, import_videos
from unmask.videos.source import find_parts, read_metadata
from unmask.vocabulary import Status

YOUTUBE, SWAPS = (
    "original_sequences/youtube/c23/videos",
    "manipulated_sequences/Deepfakes/c23/videos",
)
ACTORS = "original_sequences/actors/c23/videos"
DFD = "manipulated_sequences/DeepFakeDetection/c23/videos"
MEN = "African/men/id00076"

# What a collection contains, and the entries that become of it: label, original, method, group and
# split. Files are empty unless they have a text.
COLLECTIONS: dict[str, tuple[dict[str, str], dict[str, tuple[str | None, ...]], list[str]]] = {
    "ffpp": (
        {
            f"{YOUTUBE}/000.mp4": "",
            f"{YOUTUBE}/003.mp4": "",
            f"{SWAPS}/000_003.mp4": "",
            f"{SWAPS}/012_026.mp4": "",
            f"{SWAPS.replace('Deepfakes', 'FaceSwap')}/000_003.mp4": "",
            f"{ACTORS}/01__exit_phone_room.mp4": "",
            "manipulated_sequences/Deepfakes/masks/videos/000_003.mp4": "",
            f"{YOUTUBE}/copy of 000.mp4": "",
            "test.json": '[["003", "000"]]',
        },
        {
            "original_c23/000.mp4": ("REAL", None, None, "000_003", "test"),
            "original_c23/003.mp4": ("REAL", None, None, "000_003", "test"),
            "Deepfakes_c23/000_003.mp4": ("FAKE", "000.mp4", "Deepfakes", "000_003", "test"),
            "Deepfakes_c23/012_026.mp4": ("FAKE", "012.mp4", "Deepfakes", "012_026", None),
            "FaceSwap_c23/000_003.mp4": ("FAKE", "000.mp4", "FaceSwap", "000_003", "test"),
            "actors_c23/01__exit_phone_room.mp4": ("REAL", None, None, "actor01", None),
        },
        ["copy of 000.mp4"],
    ),
    "ffpp, two compressions": (
        {
            f"{YOUTUBE}/000.mp4": "",
            f"{YOUTUBE.replace('c23', 'c40')}/000.mp4": "",
            f"{SWAPS.replace('c23', 'c40')}/000_003.mp4": "",
        },
        {
            f"original_c23/{YOUTUBE.replace('/', '_')}_000.mp4": (
                *("REAL", None, None, "000_003", None),
            ),
            f"original_c40/{YOUTUBE.replace('/', '_').replace('c23', 'c40')}_000.mp4": (
                *("REAL", None, None, "000_003", None),
            ),
            "Deepfakes_c40/000_003.mp4": (
                "FAKE",
                f"{YOUTUBE.replace('/', '_').replace('c23', 'c40')}_000.mp4",
                *("Deepfakes", "000_003", None),
            ),
        },
        [],
    ),
    "ffpp of Kaggle": (
        {
            "FaceForensics++_C23/original/000.mp4": "",
            "FaceForensics++_C23/Face2Face/000_003.mp4": "",
        },
        {
            "original_c23/000.mp4": ("REAL", None, None, "000_003", None),
            "Face2Face_c23/000_003.mp4": ("FAKE", "000.mp4", "Face2Face", "000_003", None),
        },
        [],
    ),
    "dfd": (
        {
            f"{ACTORS}/01__exit_phone_room.mp4": "",
            f"{DFD}/01_02__exit_phone_room__YVGY8LOK.mp4": "",
            f"{DFD}/readme.mp4": "",
        },
        {
            "actors_c23/01__exit_phone_room.mp4": ("REAL", None, None, "actor01", None),
            "DeepFakeDetection_c23/01_02__exit_phone_room__YVGY8LOK.mp4": (
                *("FAKE", "01__exit_phone_room.mp4", "DeepFakeDetection", "actor01", None),
            ),
        },
        ["readme.mp4"],
    ),
    "dfd of Kaggle": (
        {
            "DFD_original sequences/01__kitchen_pan.mp4": "",
            "DFD_manipulated_sequences/DFD_manipulated_sequences/01_02__kitchen_pan__A1.mp4": "",
        },
        {
            "actors/01__kitchen_pan.mp4": ("REAL", None, None, "actor01", None),
            "DeepFakeDetection/01_02__kitchen_pan__A1.mp4": (
                *("FAKE", "01__kitchen_pan.mp4", "DeepFakeDetection", "actor01", None),
            ),
        },
        [],
    ),
    "celebdf": (
        {
            "Celeb-real/id0_0000.mp4": "",
            "Celeb-synthesis/id0_id1_0000.mp4": "",
            "Celeb-synthesis/id2_id1_0007.mp4": "",
            "YouTube-real/00170.mp4": "",
            "Celeb-real/notes.mp4": "",
            "List_of_testing_videos.txt": (
                "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"
                "1 Celeb-real/id9_0001.mp4\n"
            ),
        },
        {
            "Celeb-real/id0_0000.mp4": ("REAL", None, None, "id0", "train"),
            "Celeb-synthesis/id0_id1_0000.mp4": (
                *("FAKE", "id0_0000.mp4", "Celeb-synthesis", "id0", "test"),
            ),
            "Celeb-synthesis/id2_id1_0007.mp4": (
                *("FAKE", "id2_0007.mp4", "Celeb-synthesis", "id2", "train"),
            ),
            "YouTube-real/00170.mp4": ("REAL", None, None, None, "test"),
        },
        ["id9_0001.mp4", "notes.mp4"],
    ),
    "deeperforensics": (
        {
            "manipulated_videos/end_to_end/000_M101.mp4": "",
            "manipulated_videos/end_to_end_level_1/000_M101.mp4": "",
            "source_videos/M101/BlendShape/camera_up/M101_BlendShape_camera_up.mp4": "",
            "lists/splits/val.txt": "000_M101.mp4\n",
        },
        {
            "DeeperForensics_end_to_end/000_M101.mp4": (
                *("FAKE", "000.mp4", "end_to_end", None, "val"),
            ),
            "DeeperForensics_end_to_end_level_1/000_M101.mp4": (
                *("FAKE", "000.mp4", "end_to_end_level_1", None, "val"),
            ),
        },
        ["M101_BlendShape_camera_up.mp4"],
    ),
    "fakeavceleb": (
        {
            f"RealVideo-RealAudio/{MEN}/00109.mp4": "",
            "RealVideo-RealAudio/Asian (East)/men/id00166/00109.mp4": "",
            f"RealVideo-FakeAudio/{MEN}/00109_fake.mp4": "",
            f"FakeVideo-FakeAudio/{MEN}/00109_10_id00476_wavtolip.mp4": "",
            "meta_data.csv": (
                "source,target1,method,path\n"
                "id00076,id00476,wav2lip,00109_10_id00476_wavtolip.mp4\n"
            ),
        },
        {
            f"RealVideo-RealAudio/RealVideo-RealAudio_{MEN.replace('/', '_')}_00109.mp4": (
                *("REAL", None, None, "id00076", None),
            ),
            "RealVideo-RealAudio/RealVideo-RealAudio_Asian (East)_men_id00166_00109.mp4": (
                *("REAL", None, None, "id00166", None),
            ),
            "FakeVideo-FakeAudio/00109_10_id00476_wavtolip.mp4": (
                "FAKE",
                f"RealVideo-RealAudio_{MEN.replace('/', '_')}_00109.mp4",
                *("wav2lip", "id00076", None),
            ),
        },
        ["00109_fake.mp4"],
    ),
    "wilddeepfake": (
        {
            "real_train/3/real/0/7.png": "",
            "real_train/3/real/1/9.png": "",
            "fake_test/3/fake/5/2.png": "",
            "fake_test/4.tar.gz": "",
        },
        {
            "real_train/0": ("REAL", None, None, "real_train_3", "train"),
            "real_train/1": ("REAL", None, None, "real_train_3", "train"),
            "fake_test/5": ("FAKE", None, "web", "fake_test_3", "test"),
        },
        ["4.tar.gz"],
    ),
    "dfdc": (
        {
            "dfdc_train_part_0/a.mp4": "",
            "dfdc_train_part_0/b.mp4": "",
            "dfdc_train_part_0/unlisted.mp4": "",
            "dfdc_train_part_0/metadata.json": json.dumps(
                {
                    "a.mp4": {"label": "REAL", "split": "train", "original": None},
                    "b.mp4": {"label": "FAKE", "split": "train", "original": "a.mp4"},
                    "gone.mp4": {"label": "FAKE", "split": "train", "original": "a.mp4"},
                }
            ),
            "test/t.mp4": "",
            "test/labels.csv": "filename,label\nt.mp4,1\n",
        },
        {
            "dfdc_train_part_0/a.mp4": ("REAL", None, None, None, None),
            "dfdc_train_part_0/b.mp4": ("FAKE", "a.mp4", None, None, None),
            "test/t.mp4": ("FAKE", None, None, None, "test"),
        },
        ["gone.mp4", "unlisted.mp4"],
    ),
    "dfdc preview": (
        {
            "original_videos/12/12_A_001.mp4": "",
            "method_A/12/12_34_A_001.mp4": "",
            "dataset.json": json.dumps(
                {
                    "original_videos/12/12_A_001.mp4": {"label": "real", "set": "train"},
                    "method_A/12/12_34_A_001.mp4": {
                        **{"label": "fake", "set": "test", "target_id": 12, "swapped_id": 34}
                    },
                }
            ),
        },
        {
            "dfdc_preview_original_videos/12_A_001.mp4": ("REAL", None, None, None, "train"),
            "dfdc_preview_method_A/12_34_A_001.mp4": (
                *("FAKE", None, "method_A", "person12", "test"),
            ),
        },
        [],
    ),
    "folders": (
        {
            "train/Real videos/a.mp4": "",
            "train/FAKE/deepfakes/a.mp4": "",
            "train/FAKE/deepfakes/b_swap_1.mov": "",
            "val/real/b.mp4": "",
            "notes/c.mp4": "",
        },
        {
            "mine_real/train_Real videos_a.mp4": ("REAL", None, None, None, "train"),
            "mine_real/b.mp4": ("REAL", None, None, None, "val"),
            "mine_deepfakes/train_FAKE_deepfakes_a.mp4": (
                *("FAKE", "train_Real videos_a.mp4", "deepfakes", None, "train"),
            ),
            "mine_deepfakes/b_swap_1.mov": ("FAKE", "b.mp4", "deepfakes", None, "train"),
        },
        ["c.mp4"],
    ),
    "folders of images": (
        {
            "real/a/2.png": "",
            "real/a/10.png": "",
            "fake/a/2.jpg": "",
            "fake/b/2.jpg": "",
            "fake/loose.png": "",
        },
        {
            "mine_real/real_a": ("REAL", None, None, None, None),
            "mine_fake/fake_a": ("FAKE", "real_a", None, None, None),
            "mine_fake/b": ("FAKE", None, None, None, None),
        },
        ["fake"],
    ),
}


def make_tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def entries_of(parts: Path) -> dict[str, tuple[str | None, ...]]:
    keys = ("label", "original", "method", "group", "split")
    return {
        f"{metadata.parent.name}/{name}": tuple(entry.get(key) for key in keys)
        for metadata in parts.glob("*/metadata.json")
        for name, entry in json.loads(metadata.read_text()).items()
    }


def unplaced_of(imported: Imported) -> list[str]:
    return sorted(one.path.name for one in imported.unplaced)


@pytest.mark.parametrize("case", COLLECTIONS)
def test_a_layout_is_recognised_and_read(case: str, tmp_path: Path) -> None:
    files, entries, unplaced = COLLECTIONS[case]
    parts = tmp_path / "parts"
    imported = import_videos(make_tree(tmp_path / "mine", files), parts)
    assert imported.layout == case.split()[0].rstrip(",")
    assert entries_of(parts) == entries
    assert unplaced_of(imported) == unplaced
    for part in find_parts(parts).values():
        for entry in read_metadata(part):
            assert entry.status == Status.OK
            assert (part / entry.name).exists()


def test_every_layout_has_a_case_and_says_what_it_is_recognised_by(tmp_path: Path) -> None:
    layouts = all_layouts()
    assert {case.split()[0].rstrip(",") for case in COLLECTIONS} | {"csv"} == set(layouts)
    with pytest.raises(UnmaskError) as refused:
        import_videos(make_tree(tmp_path / "mine", {"films/a.mp4": ""}), tmp_path / "parts")
    assert "\n" not in str(refused.value)
    for name, layout in layouts.items():
        assert f"{name}: {layout.SIGNS}" in str(refused.value)


def test_a_table_says_what_it_knows(tmp_path: Path) -> None:
    rows = """
        Path, Label, original, person, split
        clips/a.mp4, REAL, , anna, train
        clips/b.mp4, 1, a.mp4, anna, train
        clips/c.mp4, perhaps, , ,
        gone.mp4, fake, , , test"""
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(line.strip() for line in rows.strip().splitlines()))
    make_tree(tmp_path / "clips", {f"{name}.mp4": "" for name in "abc"})
    imported = import_videos(table, tmp_path / "parts")
    assert imported.layout == "csv"
    assert entries_of(tmp_path / "parts") == {
        "clips_real/a.mp4": ("REAL", None, None, "anna", "train"),
        "clips_fake/b.mp4": ("FAKE", "a.mp4", None, "anna", "train"),
    }
    assert unplaced_of(imported) == ["c.mp4", "gone.mp4"]
    table.write_text("file,kind\nclips/a.mp4,REAL\n")
    with pytest.raises(UnmaskError, match=r"clips\.csv: has no column label .* file, kind"):
        import_videos(table, tmp_path / "parts")


def test_links_hold_when_both_folders_move_and_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "a/mine", {"real/x.mp4": "content"})
    monkeypatch.chdir(tmp_path / "a")
    import_videos(Path("mine"), Path("parts"))
    monkeypatch.chdir("/")
    (tmp_path / "a").rename(tmp_path / "b")
    assert (tmp_path / "b/parts/mine_real/x.mp4").read_text() == "content"


def test_patterns_and_official_sets_choose_what_is_imported(tmp_path: Path) -> None:
    files, _, _ = COLLECTIONS["ffpp"]
    root = make_tree(tmp_path / "mine", files)
    only = ["*/youtube/*", "*/Deepfakes/*"]
    import_videos(root, tmp_path / "parts", only=only, splits=["test"])
    assert sorted(entries_of(tmp_path / "parts")) == [
        *("Deepfakes_c23/000_003.mp4", "original_c23/000.mp4", "original_c23/003.mp4"),
    ]
    with pytest.raises(UnmaskError, match=r"mine: no video to import"):
        import_videos(root, tmp_path / "parts", splits=["val"])


def test_a_second_import_replaces_its_parts_and_spares_other_files(tmp_path: Path) -> None:
    root, parts = make_tree(tmp_path / "mine", {"real/x.mp4": "", "fake/y.mp4": ""}), tmp_path / "p"
    import_videos(root, parts)
    (root / "real/x.mp4").unlink()
    make_tree(root, {"real/z.mp4": ""})
    import_videos(root, parts)
    assert sorted(entries_of(parts)) == ["mine_fake/y.mp4", "mine_real/z.mp4"]
    assert sorted(path.name for path in (parts / "mine_real").iterdir()) == [
        "metadata.json",
        "z.mp4",
    ]
    make_tree(parts, {"mine_fake/kept.mp4": "precious"})
    with pytest.raises(UnmaskError, match=r"mine_fake: holds kept\.mp4"):
        import_videos(root, parts)
    assert (parts / "mine_fake/kept.mp4").read_text() == "precious"


@pytest.mark.parametrize(
    ("source", "destination", "layout", "named"),
    [
        ("absent", "parts", None, "absent: no such"),
        ("mine", "mine/parts", None, "mine/parts: is inside"),
        ("mine", "parts", "imagenet", "--layout: 'imagenet'"),
        ("mine", "parts", "celebdf", "looked for celebdf: Celeb-real"),
    ],
)
def test_what_cannot_be_imported_is_named(
    source: str, destination: str, layout: str | None, named: str, tmp_path: Path
) -> None:
    make_tree(tmp_path / "mine", {"real/x.mp4": ""})
    with pytest.raises(UnmaskError) as refused:
        import_videos(tmp_path / source, tmp_path / destination, layout)
    assert named in str(refused.value)
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("case", "file", "text"),
    [
        ("ffpp", "test.json", '{"000": "003"}'),
        ("dfdc", "test/labels.csv", "name,fake\nt.mp4,1\n"),
        ("dfdc", "dfdc_train_part_0/metadata.json", "[]"),
    ],
)
def test_a_damaged_list_of_a_collection_is_named(
    case: str, file: str, text: str, tmp_path: Path
) -> None:
    root = make_tree(tmp_path / "mine", COLLECTIONS[case][0] | {file: text})
    with pytest.raises(UnmaskError, match=file):
        import_videos(root, tmp_path / "parts")


def test_the_summary_counts_what_was_found_and_names_three_that_were_not_placed(
    tmp_path: Path,
) -> None:
    files: dict[str, Any] = {f"{SWAPS}/take{number}.mp4": "" for number in range(5)}
    imported = import_videos(
        make_tree(tmp_path / "m", COLLECTIONS["ffpp"][0] | files), tmp_path / "p"
    )
    text = str(imported)
    assert "6 videos (3 REAL, 3 FAKE) in the layout ffpp, as 4 parts" in text
    assert "Deepfakes 2, FaceSwap 1" in text
    assert "2 of 3 FAKE" in text
    assert "none 2, test 4" in text
    assert "6 (take0.mp4, take1.mp4, take2.mp4, …)" in text

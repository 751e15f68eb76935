"""The miniature challenge: a few dozen clips in the layout of the DeepFake Detection Challenge.

DFDC has 470 GB and needs a login. The miniature has a few megabytes and goes through the same
stages: two parts of H.264 clips with B-frames and a ``metadata.json``, and a balanced test set of
people who do not appear in training.

    folder/train/dfdc_train_part_{0,1}/   *.mp4, metadata.json
    folder/test/                          test_videos/*.mp4, sample_submission.csv, labels.csv
    folder/demo.json                      the summary

The people are variants of the portrait that ships with scikit-image. A smooth random warp moves the
features, and with them the identity that a face recogniser sees; skin, hair and clothes get other
colours. A FAKE shows its original's take with another face in each frame. As in real swaps, that
face has a low resolution and partly matched colours, is pasted through a soft mask, and jitters
slightly against the head. Frame rate, length and encoder settings are those of the original, so
only the face distinguishes a FAKE.

Seven entries have the defects of real data on purpose (`Oddity`).
"""

import json
import string
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from skimage import data

from unmask.errors import UnmaskError
from unmask.vocabulary import Label

Image = NDArray[Any]  # a picture or a mask; docstrings give the dtype, which OpenCV's stubs do not

VERSION = 1
"""Version of the generator: increment it whenever the bytes it writes change."""

Oddity = Literal[
    "audio_track",  # a REAL clip with sound; the others have none
    "rotated",  # stored on its side, with a display matrix that turns it upright
    "truncated",  # a REAL clip without its end, where mp4 keeps the index; its FAKE is intact
    "no_face",  # a REAL clip of a background
    "missing",  # in metadata.json, but without a file
    "empty_file",  # a FAKE of zero bytes
    "original_missing",  # an intact FAKE whose original is not in metadata.json
]

_PEOPLE_PER_PART = 5
_TEST_PEOPLE = 4
_FAKES_PER_ORIGINAL = (1, 2, 3)
_FRAME_SIZES = ((320, 240), (400, 300), (480, 360))  # width, height
_FRAME_RATES = (Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30))
_PORTRAIT: Callable[[], Image] = data.astronaut
_BACKGROUNDS = ("brick", "grass", "gravel", "coffee", "rocket")  # functions of skimage.data

# Outlines on `data.astronaut()`, in pixels (x, y), traced by hand.
_PORTRAIT_SIZE = 400  # the top left square: head and shoulders, without the helmet in her arm
_FACE_CENTRE = (223, 125)
_FACE_HEIGHT = 92
_BUST = (
    *((20, 400), (24, 350), (40, 290), (62, 250), (112, 222), (112, 190), (130, 165), (150, 151)),
    *((184, 148), (183, 134), (172, 128), (165, 117), (156, 103), (153, 88), (156, 66), (164, 50)),
    *((178, 32), (205, 18), (235, 14), (264, 20), (286, 42), (300, 72), (302, 98), (288, 122)),
    *((274, 134), (268, 140), (262, 155), (257, 167), (280, 188), (300, 228), (340, 265)),
    *((358, 300), (364, 345), (362, 400)),
)
_HAIR = (
    *((165, 122), (140, 88), (160, 30), (235, 0), (290, 20), (320, 98), (290, 130), (274, 124)),
    *((270, 112), (262, 95), (250, 87), (228, 82), (205, 84), (188, 92), (180, 104), (174, 120)),
)
_SKIN = (
    *((174, 120), (180, 104), (188, 92), (205, 84), (228, 82), (250, 87), (262, 95), (270, 112)),
    *((274, 124), (272, 134), (264, 150), (256, 168), (254, 188), (220, 190), (186, 180)),
    *((185, 160), (180, 135), (172, 130)),
)
_FACE = (
    *((180, 108), (183, 132), (191, 152), (203, 168), (219, 177), (238, 170), (254, 153)),
    *((264, 132), (268, 110), (258, 92), (240, 86), (215, 84), (194, 90)),
)
_FEATURES = ((200, 102), (247, 102), (220, 143))  # eyes, mouth

# Standard deviation of the shifts that make people differ, in pixels. Beyond 8, faces look like
# masks; below 6, SFace takes nearly all of them for one person.
_WARP_STD = 7

# Quality of the swaps. Each FAKE draws its own values from these ranges, uniformly.
_SWAP_HEIGHT = (36, 50)  # pixels from chin to brow at which the face was generated
_COLOUR_RESIDUE = (0.25, 0.65)  # share of the colour difference that remains
_FEATHER = (2, 5)  # blur of the blending mask's edge, pixels of the portrait
_JITTER = (0.3, 1.2)  # standard deviation of the face's position, pixels of the frame


@dataclass(frozen=True)
class DemoSummary:
    """What `build_demo` wrote."""

    root: Path
    seed: int
    version: int  # of the generator
    parts: list[str]  # names of the training parts, folders below root/train
    videos: int  # training entries in both metadata.json, odd ones included
    real: int
    fake: int
    test_videos: int
    odd: dict[str, Oddity]  # file name of each odd training entry to what is odd about it
    people: dict[str, list[str]]  # file name to the person filmed and, in a FAKE, the donor

    def __str__(self) -> str:
        """Return the summary in two lines for a terminal."""
        odd = ", ".join(f"{name} ({oddity})" for name, oddity in self.odd.items())
        labels = f"{self.real} REAL, {self.fake} FAKE"
        parts = f"{self.videos} training videos ({labels}) in {len(self.parts)} parts"
        return f"{self.root}: {parts}, {self.test_videos} test videos\nodd on purpose: {odd}"


@dataclass(frozen=True)
class _Person:
    """A portrait to animate; points are in pixels (x, y)."""

    name: str
    portrait: Image  # (400, 400, 3) uint8, RGB
    alpha: Image  # (400, 400) float32, 1 on head and shoulders, 0 around them
    face: NDArray[np.float32]  # (13, 2), outline of the face
    features: NDArray[np.float32]  # (3, 2), eyes and mouth


@dataclass(frozen=True)
class _Take:
    """One recording: what a REAL clip and its FAKEs have in common."""

    frames: Image  # (frames, height, width, 3) uint8, RGB
    portrait_to_frame: NDArray[np.float64]  # (frames, 2, 3), affine matrices of the head's motion
    exposure: NDArray[np.float64]  # (frames,), gain of each frame
    fps: Fraction
    crf: int  # x264's constant rate factor


@dataclass
class _Clips:
    """A folder of clips, and the entries of those written so far."""

    folder: Path
    rng: Generator
    metadata: dict[str, dict[str, str | None]] = field(default_factory=dict)
    people: dict[str, list[str]] = field(default_factory=dict)
    odd: dict[str, Oddity] = field(default_factory=dict)

    def register(
        self, people: list[_Person], original: str | None = None, odd: Oddity | None = None
    ) -> Path:
        """Add an entry, a FAKE if it has an original, and return the path to write it to."""
        name = _draw_name(self.rng)
        label = Label.REAL if original is None else Label.FAKE
        self.metadata[name] = {"label": label, "split": "train", "original": original}
        self.people[name] = [person.name for person in people]
        if odd is not None:
            self.odd[name] = odd
        return self.folder / name

    def write(
        self,
        take: _Take,
        people: list[_Person],
        original: str | None = None,
        odd: Oddity | None = None,
        **encoding: Any,
    ) -> Path:
        """Write a take of a person as a REAL clip, or of a person and a donor as a FAKE."""
        path = self.register(people, original, odd)
        frames = take.frames
        if original is not None:
            frames = _swap_face(take, people[0], people[1], self.rng)
        _write_video(path, frames, take, **encoding)
        return path


def build_demo(folder: Path, seed: int = 0) -> DemoSummary:
    """Write the miniature challenge, unless the folder already holds it.

    The same seed gives the same bytes. The folder appears only when the challenge is complete.

    Args:
        folder: where to write; it may exist if it is empty or holds a challenge of the same seed.
        seed: seed of everything random.

    Raises:
        UnmaskError: the folder holds anything else, and is left unchanged.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        return _read_summary(folder, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        challenge = Path(scratch, folder.name)
        summary = _write_challenge(challenge, seed)
        contents = {key: value for key, value in asdict(summary).items() if key != "root"}
        (challenge / "demo.json").write_text(json.dumps(contents, indent=2) + "\n")
        challenge.rename(folder)
    return replace(summary, root=folder)


def _read_summary(root: Path, seed: int) -> DemoSummary:
    try:
        summary = DemoSummary(root, **json.loads((root / "demo.json").read_text()))
    except (OSError, ValueError, TypeError):
        summary = None
    if summary is None or (summary.seed, summary.version) != (seed, VERSION):
        raise UnmaskError(
            f"{root}: exists and is not the miniature challenge of seed {seed}, version {VERSION}; "
            "remove it or choose another folder"
        )
    return summary


def _write_challenge(root: Path, seed: int) -> DemoSummary:
    rng = np.random.default_rng(seed)
    parts = []
    for index, write_odd_clips in enumerate((_write_odd_clips, _write_broken_clips)):
        part = _Clips(root / "train" / f"dfdc_train_part_{index}", rng)
        part.folder.mkdir(parents=True)
        cast = [_create_person(f"train_{index}_{i}", rng) for i in range(_PEOPLE_PER_PART)]
        _write_families(part, cast)
        write_odd_clips(part, cast)
        metadata = json.dumps(part.metadata, sort_keys=True, indent=0)
        (part.folder / "metadata.json").write_text(metadata + "\n")
        parts.append(part)
    test = _write_test_set(root / "test", rng)

    labels = [entry["label"] for part in parts for entry in part.metadata.values()]
    return DemoSummary(
        *(root, seed, VERSION),
        parts=[part.folder.name for part in parts],
        videos=len(labels),
        real=labels.count(Label.REAL),
        fake=labels.count(Label.FAKE),
        test_videos=len(test.people),
        odd=parts[0].odd | parts[1].odd,
        people=parts[0].people | parts[1].people | test.people,
    )


def _write_families(part: _Clips, cast: list[_Person]) -> None:
    """Write one or two takes of each person, each as a REAL clip and its FAKEs."""
    fakes_per_original = cycle(_FAKES_PER_ORIGINAL)
    for index, person in enumerate(cast):
        for _ in range(1 + index % 2):
            take = _film(person, part.rng)
            original = part.write(take, [person])
            for donor in _draw_donors(person, cast, next(fakes_per_original), part.rng):
                part.write(take, [person, donor], original.name)


def _write_odd_clips(part: _Clips, cast: list[_Person]) -> None:
    """Write the odd clips of the first part: three REAL ones, and a FAKE of the truncated one."""
    with_audio, rotated, truncated, donor = cast[:4]
    part.write(_film(with_audio, part.rng), [with_audio], odd="audio_track", sound=part.rng)
    part.write(_film(rotated, part.rng, (240, 320)), [rotated], odd="rotated", rotation=-90)
    take = _film(truncated, part.rng)
    original = part.write(take, [truncated], odd="truncated")
    original.write_bytes(original.read_bytes()[: original.stat().st_size // 2])
    part.write(take, [truncated, donor], original.name)


def _write_broken_clips(part: _Clips, cast: list[_Person]) -> None:
    """Write the odd clips of the second part: a REAL one and three FAKEs, one without a file."""
    person, donor = cast[:2]
    intact = next(name for name, people in part.people.items() if people == [person.name])
    part.write(_film(None, part.rng), [], odd="no_face")
    part.register([person, donor], intact, "missing")
    part.register([person, donor], intact, "empty_file").touch()
    take = _film(person, part.rng)
    part.write(take, [person, donor], _draw_name(part.rng), "original_missing")


def _write_test_set(folder: Path, rng: Generator) -> _Clips:
    """Write a REAL clip of each test person and, from another take, a FAKE."""
    test = _Clips(folder / "test_videos", rng)
    test.folder.mkdir(parents=True)
    cast = [_create_person(f"test_{i}", rng) for i in range(_TEST_PEOPLE)]
    for person in cast:
        test.write(_film(person, rng), [person])
        take = _film(person, rng)
        (donor,) = _draw_donors(person, cast, 1, rng)
        test.write(take, [person, donor], _draw_name(rng))

    fake = {name: entry["label"] == Label.FAKE for name, entry in sorted(test.metadata.items())}
    for file, values in (
        ("sample_submission.csv", dict.fromkeys(fake, 0.5)),
        ("labels.csv", {name: int(value) for name, value in fake.items()}),
    ):
        rows = [f"{name},{value}\n" for name, value in values.items()]
        (folder / file).write_text("".join(["filename,label\n", *rows]))
    return test


def _draw_name(rng: Generator) -> str:
    return "".join(rng.choice(list(string.ascii_lowercase), 10)) + ".mp4"


def _draw_donors(person: _Person, cast: list[_Person], count: int, rng: Generator) -> list[_Person]:
    others = [other for other in cast if other is not person]
    return [others[i] for i in rng.permutation(len(others))[:count]]


def _create_person(name: str, rng: Generator) -> _Person:
    """Vary the portrait: recolour it, light it from one side, warp it, perhaps mirror it."""
    size = _PORTRAIT_SIZE
    image = _PORTRAIT()[:size, :size].astype(np.float32) / 255

    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))  # the orange suit
    hue, saturation = (hue + rng.uniform(0, 360)) % 360, saturation * rng.uniform(0.2, 1)
    clothes = cv2.merge([hue, saturation, value])
    image_clothes = cv2.cvtColor(clothes, cv2.COLOR_HSV2RGB) ** rng.uniform(0.7, 1.6)
    image_skin = image ** rng.uniform(0.8, 2.0) * rng.uniform((0.9, 0.85, 0.8), (1, 1, 1))
    image_hair = image ** rng.uniform(0.8, 1.6) * rng.uniform(0.4, 1) * rng.uniform(0.9, 1.1, 3)
    skin, hair = _fill(_SKIN, 2)[..., None], _fill(_HAIR, 2)[..., None]
    image = image_clothes + hair * (image_hair - image_clothes)
    image = image + skin * (image_skin - image)
    light = 1 + rng.uniform(-0.35, 0.35) * np.linspace(-1, 1, size)[None, :, None]

    portrait = (np.clip(image * light, 0, 1) * 255).astype(np.uint8)
    alpha = np.clip(2 * _fill(_BUST, 2) - 1, 0, 1)  # the edge is soft inwards only

    # A grid of random shifts, interpolated to pixels: out(x) = portrait(x + shift(x)).
    shifts = np.clip(rng.normal(0, _WARP_STD, (8, 8, 2)), -1.6 * _WARP_STD, 1.6 * _WARP_STD)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    source = np.stack([x, y], 2) + cv2.resize(shifts, (size, size), interpolation=cv2.INTER_CUBIC)
    features = _FEATURES
    if rng.random() < 0.5:
        source[..., 0] = size - 1 - source[..., 0]
        features = (_FEATURES[1], _FEATURES[0], _FEATURES[2])  # the eyes change sides
    map_x, map_y = cv2.split(source.astype(np.float32))
    return _Person(
        name=name,
        portrait=cv2.remap(portrait, map_x, map_y, cv2.INTER_LINEAR),
        alpha=cv2.remap(alpha, map_x, map_y, cv2.INTER_LINEAR),
        face=_locate(_FACE, source),
        features=_locate(features, source),
    )


def _fill(outline: ArrayLike, feather: float) -> Image:
    """Return a mask on the portrait: 1 inside a polygon, its edge blurred by `feather` pixels."""
    mask = np.zeros((_PORTRAIT_SIZE, _PORTRAIT_SIZE), np.float32)
    cv2.fillPoly(mask, [np.asarray(outline).round().astype(np.int32)], 1)
    return cv2.GaussianBlur(mask, (0, 0), feather)


def _locate(points: tuple[tuple[int, int], ...], source: Image) -> NDArray[np.float32]:
    """Return where the warp that reads pixel `source[y, x]` moves points of the portrait."""
    distances = [np.linalg.norm(source - point, axis=2) for point in points]
    y, x = np.unravel_index([distance.argmin() for distance in distances], source.shape[:2])
    return np.stack([x, y], 1).astype(np.float32)


def _film(person: _Person | None, rng: Generator, size: tuple[int, int] | None = None) -> _Take:
    """Record a person, or only a background, at a size (width, height) that is drawn if None."""
    width, height = size or _FRAME_SIZES[rng.integers(len(_FRAME_SIZES))]
    fps = _FRAME_RATES[rng.integers(len(_FRAME_RATES))]
    seconds = np.arange(round(rng.uniform(2.0, 2.4) * fps)) / float(fps)

    scale = min(width, height) / 240 * rng.uniform(0.85, 1.0) * (1 + _drift(seconds, 0.04, rng))
    angle = rng.uniform(-6, 6) + _drift(seconds, 5, rng)
    centre_x = width * (rng.uniform(0.42, 0.58) + _drift(seconds, 0.05, rng))
    centre_y = height * (rng.uniform(0.46, 0.5) + _drift(seconds, 0.03, rng))
    turns = zip(angle, scale, strict=True)
    motion: Image = np.stack([cv2.getRotationMatrix2D(_FACE_CENTRE, *turn) for turn in turns])
    motion[:, :, 2] += np.stack([centre_x, centre_y], 1) - _FACE_CENTRE
    exposure = 1 + _drift(seconds, 0.04, rng)

    background = _draw_background(width, height, rng)
    if person is not None:  # slightly out of focus, so that softness alone does not tell a FAKE
        portrait = cv2.GaussianBlur(person.portrait, (0, 0), rng.uniform(0.3, 0.7))
    # Sensor noise: each frame takes a random window of one large field.
    noise: Image = rng.normal(0, rng.uniform(2, 5), (height + 64, width + 64))
    noise = cv2.merge([cv2.GaussianBlur(noise, (0, 0), 0.6)] * 3)
    frames = np.empty((len(seconds), height, width, 3), np.uint8)
    for frame, matrix, gain in zip(frames, motion, exposure, strict=True):
        scene = background
        if person is not None:
            scene = _paste(background, portrait, person.alpha, matrix)
        top, left = rng.integers(64, size=2)
        grain = noise[top : top + height, left : left + width]
        cv2.addWeighted(scene, gain, grain, 1, 0, dst=frame, dtype=cv2.CV_8U)
    return _Take(frames, motion, exposure, fps, crf=int(rng.integers(20, 29)))


def _drift(seconds: NDArray[np.float64], amplitude: float, rng: Generator) -> NDArray[np.float64]:
    """Return a slow random motion within about plus or minus `amplitude`."""
    frequency = rng.uniform(((0.1,), (0.4,)), ((0.4,), (0.7,)))
    phase = rng.uniform(0, 2 * np.pi, (2, 1))
    waves: NDArray[np.float64] = np.sin(2 * np.pi * frequency * seconds + phase)
    return np.asarray(amplitude * waves.mean(axis=0))


def _paste(scene: Image, picture: Image, alpha: Image, matrix: NDArray[np.float64]) -> Image:
    """Return a scene with a transparent picture, moved by an affine matrix, on top."""
    size = scene.shape[1::-1]
    moved, opacity = cv2.warpAffine(picture, matrix, size), cv2.warpAffine(alpha, matrix, size)
    return cv2.blendLinear(scene, moved, 1 - opacity, opacity)


def _draw_background(width: int, height: int, rng: Generator) -> Image:
    """Return a random piece of a photograph, tinted and out of focus."""
    photograph: Image = getattr(data, _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))])()
    if photograph.ndim == 2:
        photograph = cv2.cvtColor(photograph, cv2.COLOR_GRAY2RGB)
    top, left = rng.integers(np.array(photograph.shape[:2]) // 3)
    piece: Image = photograph[top:, left:].astype(np.float32)
    piece = cv2.resize(piece, (width, height), interpolation=cv2.INTER_AREA)
    piece = cv2.GaussianBlur(piece, (0, 0), rng.uniform(1.5, 5))
    mean = piece.mean((0, 1))
    contrast, tint = rng.uniform(0.3, 0.8), rng.uniform(0.7, 1.2, 3)
    piece = np.clip((mean + contrast * (piece - mean)) * tint, 0, 255)
    return piece.astype(np.uint8)


def _swap_face(take: _Take, person: _Person, donor: _Person, rng: Generator) -> Image:
    """Return RGB frames (frames, height, width, 3) of a take with the donor's face."""
    size = (_PORTRAIT_SIZE, _PORTRAIT_SIZE)
    fit = cv2.getAffineTransform(donor.features, person.features)
    face = cv2.warpAffine(donor.portrait, fit, size)
    feather = rng.uniform(*_FEATHER)
    mask = _fill(person.face, feather) * _fill(cv2.transform(donor.face[None], fit)[0], feather)

    # Networks of DFDC's time generated faces of 64 to 256 pixels, whatever the size of the video.
    shrink = rng.uniform(*_SWAP_HEIGHT) / _FACE_HEIGHT
    face = cv2.resize(face, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    face = cv2.resize(face, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)

    # Partial colour transfer after Reinhard et al. 2001, here in RGB.
    inside = mask > 0.5
    old, new = person.portrait[inside], face[inside]
    matched = (face - new.mean(0)) * (old.std(0) / new.std(0)) + old.mean(0)
    face = matched + rng.uniform(*_COLOUR_RESIDUE) * (face - matched)
    face = np.clip(face, 0, 255).astype(np.uint8)

    jitter = rng.normal(0, rng.uniform(*_JITTER), (len(take.frames), 2))
    fake = np.empty_like(take.frames)
    for index, (matrix, gain) in enumerate(zip(take.portrait_to_frame, take.exposure, strict=True)):
        exposed = cv2.convertScaleAbs(face, alpha=gain)
        jittered = np.column_stack([matrix[:, :2], matrix[:, 2] + jitter[index]])
        fake[index] = _paste(take.frames[index], exposed, mask, jittered)
    return fake


def _write_video(
    path: Path, frames: Image, take: _Take, sound: Generator | None = None, rotation: int = 0
) -> None:
    """Encode RGB frames (frames, height, width, 3) as an mp4 with the settings of their take.

    A sound track is drawn from `sound`. Players must turn the stored picture counter-clockwise by
    `rotation` degrees, a multiple of 90, to show it upright.
    """
    stored = np.rot90(frames, -rotation // 90, axes=(1, 2))
    # Without cpu-independent, x264's bytes differ between runs; bitexact keeps date and version out
    # of the container.
    with av.open(path, "w", options={"fflags": "+bitexact"}) as container:
        options = {"crf": str(take.crf), "preset": "veryfast", "threads": "1"}
        options["x264-params"] = "cpu-independent=1"
        video = container.add_stream("libx264", rate=take.fps, options=options)
        (video.height, video.width), video.pix_fmt = stored.shape[1:3], "yuv420p"
        if rotation:
            video.set_display_rotation(rotation)
        audio = container.add_stream("aac", rate=44100, layout="mono") if sound else None
        for image in stored:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio and sound:
            for block in _babble(len(frames) / float(take.fps), sound):
                container.mux(audio.encode(block))
            container.mux(audio.encode())


def _babble(seconds: float, rng: Generator) -> Iterator[av.AudioFrame]:
    """Yield mono sound at 44.1 kHz: noise that swells four times a second, like syllables."""
    time = np.arange(int(seconds * 44100)) / 44100
    samples = 0.1 * rng.normal(size=len(time)) * np.sin(4 * np.pi * time) ** 2
    for start in range(0, len(samples), 1024):
        block = samples[None, start : start + 1024].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, start
        yield frame

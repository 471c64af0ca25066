"""``shotseg pseudo-label``: masks from image-level labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shotseg.cli.console import progress, say, table
from shotseg.cli.formats import export_options
from shotseg.cli.parsing import identity, must_exist
from shotseg.data.reading import AS_SEEN, Reading
from shotseg.errors import InputError, UsageError

if TYPE_CHECKING:
    from shotseg.data.annotations.opened import AnnotatedDataset
    from shotseg.data.image_labels import ImageLabels
    from shotseg.evaluation.pseudo_quality import Judged
    from shotseg.runs import PhotoList


@dataclass(frozen=True)
class PseudoLabel:
    """Masks for photos of which only the classes are known.

    Writes for every photo labels/<name>.png (palette: 0 = background, i = the i-th line of classes.txt, 255 = unsure), for every
    class in it masks/<class>/<name>.png (0, 1, 255 = unsure) and soft/<class>/<name>.png (probability times 255), and
    results.jsonl (one line a photo: file, classes with area and confidence, seconds, error), report.html and, where
    something failed, errors.csv. With --truth also quality.json and quality.html.

    example: shotseg pseudo-label --images photos --labels labels.csv --out pseudo --generator clip-es --resume
    """

    images: Path
    """Folder of the photos."""
    labels: Path
    """CSV, one photo a row: its file, then its class names (or a header with image and class; names parted by ";")."""
    out: Path
    """Folder of the results."""
    generator: str = "imagenet-text"
    """clip-es is the best and downloads CLIP; imagenet-text needs no download."""
    mode: Literal["episode", "image"] = "episode"
    """Each class alone against the background, or all classes of a photo against each other."""
    classes: Path | None = None
    """Text file of all class names, one a line: their order is that of the values in the label maps."""
    truth: Path | None = None
    """True masks, for the quality report: <class>/<name>.png, label maps <name>.png with the values of ours, or annotations
    of another tool (COCO, LabelMe, CVAT, YOLO, VOC, Label Studio)."""
    layout: Literal["pascal", "coco"] | None = None
    """Also write out/tlg/, the files that the released code of TLG reads."""
    words: Path | None = None
    """YAML of your own class phrases and background words, for the generators with CLIP."""
    encoder: str | None = None
    """In place of the generator's own; see: shotseg list encoders."""
    weights: str = "default"
    """ "default" (downloaded once) or the path of a local file."""
    dino: str = "dino-vits8"
    """The second encoder of fused."""
    dino_weights: str = "default"
    """Its weights."""
    high: float | None = None
    """A pixel is the class where its map wins against a background of this, in [0, 1]."""
    low: float | None = None
    """It is background where its map loses against this; between the two it is unsure."""
    refine: Literal["par", "pamr", "none"] | None = None
    """Drawing the maps along the photo's edges before the cut."""
    reference: bool = False
    """The slips of the released code of CLIP-ES and IMR-HSNet."""
    format: str = "mask"
    """Annotations to write beside the masks, into OUT/<format>."""
    min_object: int = 0
    """Of --format: leave out objects of fewer pixels."""
    one_a_class: bool = False
    """Of --format: one annotation for each class of a photo, in place of one for each object."""
    copy_images: bool = False
    """Of --format: copy the photos beside the annotations, in place of links where the format needs them."""
    resume: bool = False
    """Go on where an interrupted run stopped."""
    engine: Literal["local", "ray"] = "local"
    """On this machine, or on a Ray cluster that shares its disks (extra: ray)."""
    shard: str = "1/1"
    """Only the i-th of n parts of the photos, as 2/4; the last part to finish joins the results."""
    device: str = "auto"
    """cpu, cuda, mps, or "auto"."""
    reading: Reading = AS_SEEN

    def run(self) -> int:
        cut: dict[str, Any] = {name: getattr(self, name) for name in ("high", "low", "refine")}
        cut = {name: value for name, value in cut.items() if value is not None}
        for name in ("high", "low"):
            if not 0 <= cut.get(name, 0) <= 1:
                raise UsageError(f"--{name} {cut[name]}: must lie between 0 and 1")

        export = export_options(self)
        from shotseg.data import image_labels, remote
        from shotseg.data.annotations.names import next_step
        from shotseg.data.images import write_bytes
        from shotseg.labeller import Labeller
        from shotseg.runs import check_output, parse_shard, segment_folder

        must_exist(images=self.images, labels=self.labels, classes=self.classes, truth=self.truth, words=self.words)
        parse_shard(self.shard)
        if store := remote.address(self.out):
            raise UsageError(f"--out {remote.shown(store)}: pseudo-label writes to a folder of this machine; give one")
        truth_format = "" if self.truth is None else self._truth_format(self.truth)
        chosen = [] if self.classes is None else image_labels.read_classes(self.classes)
        found = image_labels.read(self.labels, self.images, chosen)
        options = {
            "encoder": self.encoder,
            "weights": self.weights,
            "words": None if self.words is None else str(self.words),
            "reference": self.reference,
            "cut": cut,
        }
        if self.generator == "fused":
            options |= {"dino": self.dino, "dino_weights": self.dino_weights}
        labeller = Labeller(found.classes, self.generator, self.mode, self.device, self.layout, **options)
        if labeller.cut.low > labeller.cut.high:
            raise UsageError(f"--low {labeller.cut.low} lies above --high {labeller.cut.high}; give low, then high")
        check_output(self.out, self.format)
        write_bytes(self.out / "classes.txt", "".join(f"{name}\n" for name in found.classes).encode())
        for _, reason in found.failed:
            say(reason)
        photos = _photos(found, self.reading)
        with progress("labelling", len(photos)) as advance:

            def on_record(record: dict) -> None:
                advance()
                if record["error"]:
                    say(record["error"])

            summary = segment_folder(
                labeller,
                photos,
                self.out,
                resume=self.resume,
                shard=self.shard,
                engine=self.engine,
                annotations=self.format,
                export=export,
                failed_supports=found.failed,
                settings=_settings(labeller.settings) | self.reading.said,
                on_record=on_record,
            )
        done = f"{summary.photos - summary.failed} of {summary.photos} photos done"
        print(f"{done}, report: {summary.report}" + (f", failures: {summary.errors}" if summary.errors else ""))
        if self.format != "mask":
            print(next_step(self.format, self.out / self.format))
        if self.truth is not None and (self.out / "results.jsonl").exists():
            self._judge(self.truth, truth_format, found)
        return 1 if summary.failed or found.failed else 0

    def _truth_format(self, truth: Path) -> str:
        from shotseg.data.annotations import detect

        return detect(truth) if self.reading.source == "auto" else self.reading.source

    def _judge(self, truth: Path, form: str, found: ImageLabels) -> None:
        from shotseg.data.annotations.opened import AnnotatedDataset
        from shotseg.data.images import write_bytes
        from shotseg.evaluation import pseudo_quality

        if form == "mask":
            known_by = partial(_true_mask, truth)
        else:
            known_by = partial(_annotated, AnnotatedDataset(truth, form, images=self.images, **self.reading.which))
        content = pseudo_quality.quality(_judged(self.out, known_by, found), found.classes)
        if not content["masks"]:
            raise InputError(f"{truth}: no mask for any photo; give <class>/<name>.png, or label maps <name>.png")
        title = f"Pseudo masks by {self.generator}, {content['masks']} masks"
        write_bytes(self.out / "quality.json", json.dumps(content, ensure_ascii=False, indent=1).encode())
        write_bytes(self.out / "quality.html", pseudo_quality.page(content, title).encode())
        columns = ("percent", "IoU", "precision", "recall", "masks")
        table(title, columns, pseudo_quality.lines(content), columns[1:])
        held = content["calibration"]
        print(
            f"confidence {held['confidence']}, IoU {held['iou']}, calibration error {held['error']}; "
            f"quality: {self.out / 'quality.html'}"
        )


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """What decides the masks; a file by its content."""
    given = {name: value for name, value in options.items() if value not in (None, {}, False)}
    files = {name: Path(given[name]) for name in ("words", "weights", "dino_weights") if name in given}
    return given | {name: identity(path) for name, path in files.items() if path.is_file()}


def _photos(found: ImageLabels, reading: Reading) -> PhotoList:
    from shotseg.runs import PhotoList, named

    photos = named((file, str(path)) for file, path in found.paths.items())
    return PhotoList(replace(photo, tags=found.photos[photo.file], **reading.which) for photo in photos)


def _judged(out: Path, known_by: Callable[..., Any], labels: ImageLabels) -> Iterator[Judged]:
    """Every pseudo mask of a finished run beside its true mask, one at a time; those without one are left out.

    A class in which nothing was found is a mask too: an empty one, in which there is no confidence.
    """
    from shotseg.data.images import read_mask
    from shotseg.evaluation.pseudo_quality import judge

    with (out / "results.jsonl").open(encoding="utf-8") as results:
        for record in map(json.loads, results):
            for index in () if record["error"] else labels.photos[record["file"]]:
                name = labels.classes[index]
                mask = read_mask(out / "masks" / name / f"{record['name']}.png", labels=True)
                try:
                    known = known_by(record["file"], name, index, mask.shape)
                except InputError as error:
                    say(str(error))
                    continue
                if known is not None:
                    yield judge(mask, known, index, record["classes"].get(name, {"confidence": 0.0})["confidence"])


def _annotated(truth: AnnotatedDataset, file: str, name: str, index: int, size: Any) -> Any:
    """The same of annotations of another tool."""
    known = truth.truth(file, name)
    if known is not None and known.shape != size:
        raise InputError(f"{truth.root}: {file} has another size than its photo; export it again")
    return known


def _true_mask(truth: Path, file: str, name: str, index: int, size: Any) -> Any:
    """(H, W) uint8 in {0, 1, 255}, or None where there is no file."""
    from shotseg.data.images import joined, one_class, read_mask
    from shotseg.data.pairing import mask_named

    stem = Path(file).with_suffix("").as_posix()
    inside = stem.removeprefix(f"{name}/")
    for own in dict.fromkeys((truth / name / stem, truth / name / inside)):
        if found := mask_named(own):
            return joined(one_class(read_mask(path, like=size)) for path in found)
    shared = mask_named(truth / stem)
    return joined(one_class(read_mask(path, like=size, labels=True), index + 1) for path in shared) if shared else None

"""What the page and the server say to each other."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from shotseg.data.annotations import list_formats
from shotseg.data.images import STACKS, pages_in
from shotseg.web.album import shown
from shotseg.web.examples import pairs
from shotseg.web.project import Project
from shotseg.web.said import PageClass, PagePhoto


def known_format(name: str) -> str:
    """One of ours or of another package."""
    if name not in list_formats():
        raise ValueError(f"choose one of {', '.join(list_formats())}")
    return name


Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Key = Annotated[str, Field(pattern=r"^[0-9]?$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Coordinate = Annotated[float, Field(ge=-1e5, le=1e5, allow_inf_nan=False)]
Version = Annotated[int, Field(ge=0, le=2**53)]
Format = Annotated[str, AfterValidator(known_format), WithJsonSchema({"type": "string", "enum": list_formats()})]
State = Literal["open", "predicted", "accepted", "corrected", "rejected"]


class Said(BaseModel):
    """What a client says: nothing beside the fields, and no number for a text."""

    model_config = ConfigDict(extra="forbid")


class NewClass(Said):
    name: Name
    colour: Colour | None = None
    key: Key | None = None


class ChangedClass(Said):
    name: Name | None = None
    colour: Colour | None = None
    key: Key | None = None


class DrawnStroke(Said):
    side: Literal["inside", "outside"]
    radius: Annotated[float, Field(ge=0, le=5000, allow_inf_nan=False)]
    points: Annotated[list[tuple[Coordinate, Coordinate]], Field(min_length=1, max_length=20_000)]


class NewStrokes(Said):
    version: Version
    class_id: str
    strokes: Annotated[list[DrawnStroke], Field(min_length=1, max_length=200)]


class NewState(Said):
    version: Version
    state: Literal["open", "accepted", "rejected"]


class Settings(Said):
    examples_from_reviewed: bool


class Running(Said):
    running: bool


class Export(Said):
    format: Format
    reviewed_only: bool = False


class Login(Said):
    token: str


class ClassRecord(BaseModel):
    """number: of its pixels in masks."""

    id: str
    number: int
    name: str
    colour: str
    key: str
    examples: int


class Encoding(BaseModel):
    done: int
    total: int
    running: bool
    waiting: int
    loading: bool


class ProjectRecord(BaseModel):
    name: str
    classes: list[ClassRecord]
    counts: dict[str, int]
    encoding: Encoding
    photos_folder: str | None
    formats: list[str]
    next_colour: str
    examples_from_reviewed: bool


class PhotoRecord(BaseModel):
    id: str
    file: str
    width: int
    height: int
    state: State
    confidence: float | None
    present: dict[str, float]
    areas: dict[str, float]
    version: int
    error: str | None


class KeptStroke(BaseModel):
    class_id: str
    side: Literal["inside", "outside"]
    radius: float
    points: list[tuple[float, float]]


class FullPhoto(PhotoRecord):
    strokes: list[KeptStroke]
    scale_max: float
    pages: int


class Photos(BaseModel):
    total: int
    items: list[PhotoRecord]


class Refused(BaseModel):
    file: str
    reason: str


class Added(BaseModel):
    added: list[PhotoRecord]
    refused: list[Refused]


class Looked(BaseModel):
    changed: bool


class Counts(BaseModel):
    photos: int
    masks: int
    classes: dict[str, int]
    left_out: list[Refused]


class Detail(BaseModel):
    detail: str


def class_record(own: PageClass, project: Project) -> ClassRecord:
    shots = len(pairs(project, own.name))
    return ClassRecord(id=own.id, number=own.number, name=own.name, colour=own.colour, key=own.key, examples=shots)


def photo_record(photo: PagePhoto, project: Project) -> PhotoRecord:
    return PhotoRecord(**_fields(photo, project))


def full_photo(photo: PagePhoto, project: Project, scale: float) -> FullPhoto:
    """scale: of the largest picture of the photo that the page can ask for."""
    strokes = [
        KeptStroke(
            class_id=f"c{stroke.number}",
            side="inside" if stroke.inside else "outside",
            radius=stroke.radius,
            points=list(stroke.points),
        )
        for stroke in photo.strokes
    ]
    if photo.pages is None:  # which takes a look at each of a thousand
        photo.pages = pages_in(photo.path) if photo.path.suffix.lower() in STACKS else 1
    return FullPhoto(**_fields(photo, project), strokes=strokes, scale_max=scale, pages=photo.pages)


def _fields(photo: PagePhoto, project: Project) -> dict:
    known = project.said.classes
    return {
        "id": photo.id,
        "file": shown(photo.file),
        "width": photo.width,
        "height": photo.height,
        "state": photo.state,
        "confidence": photo.confidence,
        "present": {known[number].id: p for number, p in photo.present.items() if number in known},
        "areas": {known[number].id: part for number, part in photo.areas.items() if number in known},
        "version": photo.version,
        "error": None if photo.error is None else shown(photo.error),
    }

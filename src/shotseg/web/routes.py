"""What a page can ask: /api/v1."""

from __future__ import annotations

import hmac
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from shotseg.data.annotations import list_formats
from shotseg.errors import InputError, ShotsegError, UsageError
from shotseg.web import exports, guard, schemas, uploads
from shotseg.web.album import shown
from shotseg.web.engine import Engine
from shotseg.web.events import Events
from shotseg.web.gallery import MOST, SHOWN, Gallery
from shotseg.web.labels import Runs, label_png
from shotseg.web.project import Project
from shotseg.web.schemas import Detail, full_photo, photo_record

LARGE = 16_000_000  # pixels of the picture of a photo; of more, the browser would hold too many


@dataclass
class Parts:
    """What the routes stand on. token: where one is asked for."""

    project: Project
    engine: Engine
    gallery: Gallery
    events: Events
    token: str | None


def parts(request: Request) -> Parts:
    return request.app.state.parts


P = Annotated[Parts, Depends(parts)]
V = Annotated[int, Query(ge=0, le=2**53)]
Place = Annotated[int, Query(ge=0, le=10**6)]
ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": Detail} for code in (400, 401, 403, 404, 409, 413, 422, 503)}
router = APIRouter(prefix="/api/v1", responses=ERRORS)


def binary(kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}}}}}


# The project


@router.get("/project")
def project(p: P) -> schemas.ProjectRecord:
    with p.project.lock:
        folder = p.project.album.folder
        return schemas.ProjectRecord(
            name=shown(p.project.folder.resolve().name),
            classes=[schemas.class_record(own, p.project) for own in p.project.classes],
            counts=p.project.album.counts(),
            encoding=schemas.Encoding(**p.engine.encoding),
            photos_folder=None if folder is None else shown(str(folder)),
            formats=list_formats(),
            next_colour=p.project.next_colour,
            examples_from_reviewed=p.project.said.settings["examples_from_reviewed"],
        )


@router.patch("/project")
def change_project(p: P, said: schemas.Settings) -> schemas.ProjectRecord:
    p.project.set_examples_from_reviewed(said.examples_from_reviewed)
    _changed(p)
    return project(p)


@router.post("/encoding")
def encoding(p: P, said: schemas.Running) -> schemas.Encoding:
    """Let the photos that are not encoded wait, or go on."""
    p.engine.run(said.running)
    return schemas.Encoding(**p.engine.encoding)


@router.get("/events", response_class=StreamingResponse, responses=binary("text/event-stream"))
def events(p: P) -> StreamingResponse:
    return StreamingResponse(p.events.listen(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@router.post("/login", status_code=204)
def login(p: P, said: schemas.Login) -> Response:
    if p.token is None or not hmac.compare_digest(said.token.encode("utf-8", "replace"), p.token.encode()):
        raise HTTPException(401, "another token; open the address that shotseg serve printed")
    answer = Response(status_code=204)
    answer.set_cookie(guard.COOKIE, guard.cookie_of(p.token), httponly=True, samesite="strict", path="/")
    return answer


# Classes


@router.post("/classes", status_code=201)
def add_class(p: P, said: schemas.NewClass) -> schemas.ClassRecord:
    own = p.project.add_class(said.name, said.colour, said.key)
    p.events.tell("project", {})
    return schemas.class_record(own, p.project)


@router.patch("/classes/{id}")
def change_class(p: P, id: str, said: schemas.ChangedClass) -> schemas.ClassRecord:
    own = p.project.change_class(id, said.name, said.colour, said.key)
    _changed(p)
    return schemas.class_record(own, p.project)


@router.delete("/classes/{id}", status_code=204)
def remove_class(p: P, id: str, into: Annotated[str | None, Query(max_length=100)] = None) -> Response:
    """Its pixels become background. into: id of the class that they become instead."""
    p.project.remove_class(id, into)
    _changed(p)
    return Response(status_code=204)


# Photos


@router.get("/photos")
def photos(
    p: P,
    after: BackgroundTasks,
    sort: Literal["doubt", "name", "area"] = "doubt",
    state: Annotated[str, Query(max_length=100)] = "",
    class_: Annotated[str, Query(alias="class", max_length=100)] = "",
    query: Annotated[str, Query(max_length=300)] = "",
    below: Annotated[float | None, Query(ge=0, le=1)] = None,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.Photos:
    """state: one, or several with commas; "failed" as well.   class: those that show it.   query: part of the file's name.

    below: those of a lower confidence; without it also those of none.
    """
    after.add_task(p.engine.begin)
    with p.project.lock:
        number = p.project.klass(class_).number if class_ else None
        found = p.project.album.listed(sort, state, number, query, below)
        items = [photo_record(photo, p.project) for photo in found[offset : offset + limit]]
        return schemas.Photos(total=len(found), items=items)


@router.post("/photos")
def add_photos(p: P, files: list[UploadFile]) -> schemas.Added:
    added, refused = [], []
    for file in files:
        name = shown(file.filename or "photo")[-200:]
        try:
            data = file.file.read()
            uploads.check_photo(name, data)
            added.append(photo_record(p.project.add_photo(name, data), p.project))
        except ShotsegError as error:
            refused.append(schemas.Refused(file=name, reason=str(error)))
    if added:
        p.engine.changed()
        p.events.tell("project", {})
    return schemas.Added(added=added, refused=refused)


@router.post("/photos/look")
def look(p: P) -> schemas.Looked:
    """Look into the folder again: photos may have come, or gone."""
    changed = p.project.find_photos()
    if changed:
        p.engine.changed()
        p.events.tell("project", {})
    return schemas.Looked(changed=changed)


@router.get("/photos/{id}")
def photo(p: P, id: str) -> schemas.FullPhoto:
    with p.project.lock:
        found = p.project.photo(id)
        pixels, side = max(1, found.width * found.height), max(1, found.width, found.height)
        return full_photo(found, p.project, min(1.0, MOST / side, (LARGE / pixels) ** 0.5))


@router.get("/photos/{id}/image", response_class=Response, responses=binary("image/jpeg"))
def image(p: P, id: str, side: Annotated[int, Query(ge=16, le=MOST)] = SHOWN) -> Response:
    return _picture(p, id, side)


@router.get("/photos/{id}/thumbnail", response_class=Response, responses=binary("image/jpeg"))
def thumbnail(p: P, id: str) -> Response:
    return _picture(p, id, None)


def _picture(p: Parts, id: str, side: int | None) -> Response:
    found = p.project.photo(id)
    try:
        data = p.gallery.thumbnail(found) if side is None else p.gallery.picture(found, side)
    except InputError as error:
        raise HTTPException(404, shown(str(error))) from None
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=60"})


@router.get("/photos/{id}/mask", response_class=Response, responses=binary("image/png"))
def mask(p: P, id: str) -> Response:
    """A PNG whose values are the classes' numbers, which never change; 0 is background."""
    version, numbers = p.engine.mask(id)
    return _versioned(label_png(p.project.standing(numbers)), version, "image/png")


@router.get("/photos/{id}/mask/runs", response_class=Response, responses=binary("application/octet-stream"))
def mask_runs(p: P, id: str) -> Response:
    """The mask as a page draws it at once: deflated, of each run of pixels of one value, row after row, its length (uint32,
    little-endian), then of each run its value (uint8)."""
    version, found = p.engine.runs(id)
    packed = Runs(found.lengths, p.project.standing(found.values)).packed()
    return _versioned(packed, version, "application/octet-stream")


def _versioned(content: bytes, version: int, kind: str) -> Response:
    return Response(content, media_type=kind, headers={"etag": f'"{version}"', "cache-control": "no-store"})


PNG = {"requestBody": {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "required": True}}


@router.put("/photos/{id}/mask", openapi_extra=PNG)
async def put_mask(p: P, id: str, version: V, request: Request) -> schemas.FullPhoto:
    data = await request.body()
    return await run_in_threadpool(_correct, p, id, version, data)


def _correct(p: Parts, id: str, version: int, data: bytes) -> schemas.FullPhoto:
    p.project.correct(id, version, _labels(p, id, data))
    _changed(p, id)
    return photo(p, id)


@router.patch("/photos/{id}/mask", openapi_extra=PNG)
async def patch_mask(p: P, id: str, version: V, left: Place, top: Place, request: Request) -> schemas.FullPhoto:
    """A rectangle of the mask, as for PUT: the rest stays as it was in that version, which has to be the newest."""
    data = await request.body()
    return await run_in_threadpool(_patch, p, id, version, left, top, data)


def _patch(p: Parts, id: str, version: int, left: int, top: int, data: bytes) -> schemas.FullPhoto:
    p.engine.patch(id, version, _labels(p, id, data, whole=False), left, top)
    _changed(p, id)
    return photo(p, id)


def _labels(p: Parts, id: str, data: bytes, whole: bool = True) -> np.ndarray:
    size = p.project.photo(id).size
    try:
        return uploads.read_labels(data, size, p.project.said.last_number, whole)
    except InputError as error:
        raise UsageError(str(error)) from None


@router.post("/photos/{id}/strokes")
def add_strokes(p: P, id: str, said: schemas.NewStrokes) -> schemas.FullPhoto:
    strokes = [(stroke.side == "inside", stroke.radius, stroke.points) for stroke in said.strokes]
    p.project.draw(id, said.version, said.class_id, strokes)
    p.engine.answer(id)
    _changed(p, id)
    return photo(p, id)


@router.delete("/photos/{id}/strokes")
def clear_strokes(p: P, id: str, version: V) -> schemas.FullPhoto:
    """All strokes, and the mask that was accepted or corrected: the photo is predicted anew."""
    p.project.clear(id, version)
    p.engine.answer(id)
    _changed(p, id)
    return photo(p, id)


@router.post("/photos/{id}/state")
def set_state(p: P, id: str, said: schemas.NewState) -> schemas.FullPhoto:
    if said.state == "accepted":
        p.engine.accept(id, said.version)
    else:
        p.project.set_state(id, said.version, said.state)
    _changed(p, id)
    return photo(p, id)


# Out


@router.get("/export")
def counts(p: P, format: schemas.Format, reviewed_only: bool = False) -> schemas.Counts:
    """What an export would hold, and what it would leave out."""
    found = exports.plan(p.engine, reviewed_only)
    exports.check(p.engine, format, found)
    left_out = [schemas.Refused(file=file, reason=reason) for file, reason in found.left_out]
    shows = sum(found.classes.values())
    return schemas.Counts(photos=len(found.photos), masks=shows, classes=found.classes, left_out=left_out)


@router.post("/export", response_class=FileResponse, responses=binary("application/zip"))
def export(p: P, said: schemas.Export) -> FileResponse:
    folder = Path(tempfile.mkdtemp(prefix="shotseg-"))
    try:
        packed = exports.export(p.engine, said.format, folder, said.reviewed_only)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    done = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    return FileResponse(packed, media_type="application/zip", filename=packed.name, background=done)


@router.get("/areas.csv", response_class=Response, responses=binary("text/csv"))
def areas(p: P) -> Response:
    named = {"content-disposition": 'attachment; filename="areas.csv"'}
    return Response(exports.areas(p.engine), media_type="text/csv; charset=utf-8", headers=named)


def _changed(p: Parts, id: str | None = None) -> None:
    """The page hears of it, and the model learns it, then decides the photos again."""
    if id is not None:
        found = p.project.photo(id)
        tell = {"id": id, "version": found.version, "state": found.state, "confidence": found.confidence}
        p.events.tell("photo", tell)
    p.events.tell("project", {})
    p.engine.changed()

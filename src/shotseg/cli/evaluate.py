"""``shotseg evaluate``: numbers with intervals, controls and every choice written down."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import tyro

from shotseg.cli.choices import Runtime
from shotseg.cli.console import measured, say, table
from shotseg.data.reading import AS_SEEN, Reading
from shotseg.errors import UsageError


@dataclass(frozen=True)
class Evaluate:
    """Measure a few-shot method, beside controls that know nothing of the class and published numbers where known.

    Writes a JSON file (scores in percent, 95 % intervals, the counts of every episode, the whole protocol) and an HTML report
    beside it. With --compare: is one result better than another on the same episodes?

    example: shotseg evaluate folder --root my_photos --shot 1 --seeds 0 1 2 --out result.json
    """

    dataset: tyro.conf.Positional[str] = ""
    """ "folder", a prepared data set (see: shotseg list datasets), or in place of "folder --root PATH" the path itself."""
    root: Path | None = None
    """Folder of the data set; of "folder" images/<class>/ with masks/<class>/, or annotations of another tool."""
    out: Path | None = None
    """Result file (.json); the report is written beside it as .report.html."""
    method: str = "matching"
    """See: shotseg list models."""
    encoder: str = "auto"
    """See: shotseg list encoders. "auto" is the method's own, for most the one that needs no download."""
    checkpoint: Path | None = None
    """A trained model (best.safetensors of a run); its own recipe then says method and encoder."""
    fold: str | None = None
    """Test fold: a number or a name, as the data set has it; default all classes."""
    shot: int = 1
    """Support photos in each episode."""
    way: int = 1
    """Classes asked for at once, of which a query shows few; with --protocol cst, CST's own episodes and scores."""
    queries: int = 10
    """With --way: photos of each class that are asked for all of them, for each seed's draw of the examples."""
    present: float = 0.5
    """With --way or --effort: presence from which a class is said to be in a photo."""
    effort: bool = False
    """Count the strokes of a simulated person who corrects --episodes photos of each class (default 12), see docs/effort.md."""
    classes: tuple[str, ...] = ()
    """Test only these classes."""
    kind: str | None = None
    """Of a folder with label maps: only classes of this kind in classes.csv, as "thing"."""
    min_area: float = 0.0
    """Of a folder with label maps: leave out what covers a smaller fraction of its photo."""
    folds: str | None = None
    """Fold definition, where a data set has several (COCO: interleaved, contiguous)."""
    protocol: Literal["shotseg", "hsnet", "pfenet", "bam", "hdmnet", "pi-clip", "tlg", "cst"] = "shotseg"
    """Preset; each flag below changes one of its choices, and the result says so. See: shotseg list protocols."""
    episodes: int | None = None
    """Episodes in each run."""
    seeds: tuple[int, ...] = ()
    """One run for each."""
    size: int | None = None
    """Working size in pixels."""
    geometry: Literal["fit", "squash", "pad"] | None = None
    """Aspect kept, not kept, or padded to a square."""
    score_at: Literal["original", "working", "square"] | None = None
    """Where pixels are counted."""
    fusion: Literal["model", "vote", "mean"] | None = None
    """How several shots become one mask."""
    ignore_band: Literal["exclude", "background"] | None = None
    """What pixels labelled 255 are."""
    rule: Literal["shotseg", "hsnet", "hsnet-coco", "pfenet", "cst"] | None = None
    """How episodes are drawn."""
    device: str = "auto"
    """cpu, cuda, mps, or "auto"."""
    runtime: Runtime = "auto"
    """What computes the encoder on a CPU: onnxruntime (extra: onnx) where it is installed, else torch. onnxruntime-int8 is twice
    as fast and not exact."""
    workers: int = 0
    """Threads that read, encode and decide; 0 = one for each core. Never changes a count."""
    batch: int = 8
    """Episodes that a worker takes at a time. Never changes a count."""
    cache_mb: int = 2000
    """Bound on the photos, features and supports kept in memory. Never changes a count."""
    resume: bool = False
    """Go on where an interrupted run stopped."""
    compare: tuple[Path, Path] | None = None
    """Two result files of the same episodes; no data set is needed then."""
    reading: Reading = AS_SEEN

    def run(self) -> int:
        if self.compare:
            return self._compare(*self.compare)
        if not self.dataset or self.out is None or (self.root is None and self.dataset == "folder"):
            raise UsageError(
                "give a data set, --root and --out, as: shotseg evaluate folder --root photos --out x.json"
            )
        from shotseg.evaluation.door import evaluate
        from shotseg.evaluation.episode_loop import is_first

        asked = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "compare"}
        with measured("correcting" if self.effort else "evaluating") as on_progress:
            result = evaluate(**asked, on_progress=on_progress, say=say)
        if not is_first():
            return 0
        said = result.summary
        table(said.title, said.columns, said.rows, said.numbers)
        if said.below:
            print(said.below)
        for line in said.notes:
            say(line)
        print(f"result: {self.out}" + (f", report: {self.out.with_suffix('.report.html')}" if result.page else ""))
        return 0

    def _compare(self, first: Path, second: Path) -> int:
        from shotseg.data.images import write_bytes
        from shotseg.data.writable import check_out
        from shotseg.evaluation.outcome import EvaluationResult

        if self.out is not None:
            check_out(self.out)
        found = EvaluationResult.load(first).compare(EvaluationResult.load(second))
        row = (f"{found['difference']:+.2f}", f"{found['low']:+.2f} .. {found['high']:+.2f}", f"{found['p']:.3f}")
        title = f"mIoU {found['miou'][0]:.1f} and {found['miou'][1]:.1f} on the same {found['episodes']} episodes"
        table(title, ("difference", "95 % interval", "p"), [row])
        if self.out is not None:
            write_bytes(self.out, json.dumps(found, ensure_ascii=False).encode())
        return 0

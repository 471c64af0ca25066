"""The pages of the repository as a site under build/site: ``make docs``, or ``python docs/build_site.py`` (extra: docs).

Pages, pictures and scripts keep their places in a copy, so that every link is the repository's own; the notebook becomes a page.
A link that leads nowhere ends the build.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "site-pages"
GATHERED = ["*.md", "docs/**/*.md", "docs/*.jpg", "docs/*.png", "docs/*.svg", "docs/*.ipynb", "findings/*"]
GATHERED += ["tests/goldens/README.md", "src/shotseg/priors/words.yaml", "LICENSE"]


def gather() -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    for pattern in GATHERED:
        for path in filter(Path.is_file, ROOT.glob(pattern)):
            copy = PAGES / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    (PAGES / "docs" / "tutorial.md").write_text(page_of(ROOT / "docs" / "tutorial.ipynb"), encoding="utf-8")


def page_of(notebook: Path) -> str:
    """The cells of a notebook one after the other, code in fences."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for kind, text in texts) + "\n"


if __name__ == "__main__":
    gather()
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"],
        cwd=ROOT,
        env={
            **os.environ,
            "NO_MKDOCS_2_WARNING": "1",
        },  # Material is kept until May 2027; zensical reads the same mkdocs.yml
    )
    sys.exit(built.returncode)

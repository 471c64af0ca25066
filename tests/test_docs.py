"""What the documents say can be typed and followed: every command parses, every link leads somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from shotseg import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def commands(page: Path) -> list[str]:
    """The lines of a page that begin with shotseg, continued lines joined, without their comments."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^\s*(shotseg [a-z-]+ .+)$", "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)), re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_page_is_understood(page):
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        if not {"--help", ";", "|"} & set(words) and "$" not in line and "..." not in line:
            assert cli._parsed(words), line


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if target and "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for target, heading in re.findall(r"\]\(([^)#\s:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        text = (page.parent / target if target else page).read_text(encoding="utf-8")
        slugs = {
            re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)
        }
        assert heading in slugs, f"{page.name}: {target}#{heading}"

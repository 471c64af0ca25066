"""What the documents say can be typed, followed and read: commands parse, links lead somewhere, sentences are short."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shotseg import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    page for where in ("*.md", "docs/**/*.md", "findings/*.md", "tests/**/*.md") for page in ROOT.glob(where)
)
WITHOUT_COMMANDS = {"CHANGELOG.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/datasets.md", "docs/decisions.md"}
WITHOUT_COMMANDS |= {"docs/files.md", "docs/matching.md", "docs/methods/README.md", "findings/README.md"}
WITHOUT_COMMANDS |= {f"docs/papers/{name}.md" for name in ("README", "corenet", "pi-clip", "qgnet", "simformer", "tlg")}
WITHOUT_COMMANDS |= {
    "docs/comparison.md",
    "docs/deviations.md",
    "docs/python.md",
    "docs/reference.md",
    "tests/goldens/README.md",
}
MOST_WORDS = 40  # of a sentence
FENCED = re.compile(r"^ *```\w*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(
    r"(?<=\n\n)((?:(?: {4}|\t).*\n)+)"
)  # by four blanks after an empty line; list items are told by their mark
END = re.compile(r"(?<=[.!?])[\"')*`\]]*\s+(?=[A-Z0-9\"'(*`\[<])")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def code(text: str) -> str:
    """Every block of code of a page, fenced or indented."""
    unfenced = FENCED.sub("", text)
    indented = [block for block in INDENTED.findall(unfenced) if not re.match(r"\s+([-*]|\d+\.) ", block)]
    return "\n".join([*FENCED.findall(text), *indented])


def commands(text: str) -> list[str]:
    """The lines of code that run shotseg, alone or by ``-m``, continued lines joined, from the word shotseg on."""
    joined = re.sub(r"\s*\\\n\s*", " ", code(text))
    return re.findall(r"^\s*(?:\$ )?(?:\w+=\S+ )*(?:\S.* -m )?(shotseg [a-z][a-z-]+(?: .*)?)$", joined, re.MULTILINE)


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page outside code, tables, headings and the addresses of links."""
    text = INDENTED.sub(
        lambda block: block[0] if re.match(r"\s+([-*]|\d+\.) ", block[0]) else "\n", FENCED.sub("", text)
    )
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"^\s*(#|\||!\[).*$", "", text, flags=re.MULTILINE))
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
        yield from END.split(" ".join(block.split()))


@every_page
def test_every_command_of_a_page_is_understood(page):
    found = commands(page.read_text(encoding="utf-8"))
    known = found or page.relative_to(ROOT).as_posix() in WITHOUT_COMMANDS
    assert known, "no command was found; a page that has none is named in WITHOUT_COMMANDS"
    for line in found:
        words = shlex.split(line, comments=True)[1:]
        if not {"--help", ";", "|"} & set(words) and "$" not in line and "..." not in line:
            assert cli._parsed(words), line


@every_page
def test_every_script_that_a_page_names_is_there(page):
    for script in re.findall(r"\b(?:python|bash) ([\w/]+\.(?:py|sh))\b", page.read_text(encoding="utf-8")):
        assert (ROOT / script).is_file(), script


@every_page
def test_no_sentence_of_a_page_is_long(page):
    long = [s for s in sentences(page.read_text(encoding="utf-8")) if len(re.findall(r"\S*\w\S*", s)) > MOST_WORDS]
    assert not long, f"{page.name}, more than {MOST_WORDS} words: " + "\n".join(long)


def test_commands_are_found_in_every_form_of_code():
    text = (
        "Run\n\n    shotseg doctor\n\nor\n\n```\nshotseg list \\\n  models  # all\n$ torchrun -m shotseg train a\n```\n"
    )
    assert commands(text) == ["shotseg list models  # all", "shotseg train a", "shotseg doctor"]
    assert commands("- a list\n\n    - shotseg is no command here\n\nshotseg segments photos.\n") == []


def test_sentences_are_told_apart_and_code_is_none():
    text = "# A head\n\nOne `x`. Two: [a](b.md#c)?\n**Three.** Four\n- five\n\n    code here. Yes\n\n| a. B |\n"
    assert [s for s in sentences(text) if s] == ["One `x`.", "Two: [a]?", "**Three.", "Four", "- five"]


@every_page
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


def test_every_finding_is_in_the_table_and_says_library_version_and_mend_in_its_head():
    table = (ROOT / "findings/README.md").read_text(encoding="utf-8")
    scripts = sorted(path.name for path in ROOT.glob("findings/*.sh"))
    assert scripts == sorted(re.findall(r"^\| `(\w+\.sh)` \|", table, re.MULTILINE))
    for name in scripts:
        head = re.match(r"(?:#.*\n)+", (ROOT / "findings" / name).read_text(encoding="utf-8"))
        assert head, name
        assert all(re.search(said, head[0]) for said in (r"\d+\.\d+", "Seen:", "Why it matters:", "What to do:")), name


def test_the_pages_make_a_site_in_which_every_link_leads_somewhere():
    for needed in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(needed, reason="the extra docs is not installed")
    built = subprocess.run([sys.executable, str(ROOT / "docs" / "build_site.py")], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    reference = (ROOT / "build/site/docs/reference.html").read_text(encoding="utf-8")
    for shown in ("predict_stream", "to_supervision", "<strong>checkpoint</strong>"):
        assert shown in reference
    assert "fonts.googleapis" not in reference and "unpkg" not in reference  # nothing is fetched from elsewhere

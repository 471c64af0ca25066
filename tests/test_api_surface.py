"""A change of what users hold on to, in Python or on the command line, is a change of a file that is read in review."""

import json

import api_surface
from shotseg import cli


def lines(surface: dict) -> set[str]:
    return {json.dumps([part, name, value]) for part, own in surface.items() for name, value in own.items()}


def test_the_public_names_and_flags_are_those_of_the_stored_file():
    stored, found = json.loads(api_surface.STORED.read_text(encoding="utf-8")), api_surface.surface()
    gone, new = sorted(lines(stored) - lines(found)), sorted(lines(found) - lines(stored))
    said = "\n".join([*(f"- {line}" for line in gone), *(f"+ {line}" for line in new)])
    assert stored == found, f"public names or flags changed; if meant, run `python tests/api_surface.py`:\n{said}"


def test_the_stored_file_speaks_of_every_verb_and_of_flags_that_the_command_line_knows(capsys):
    flags = api_surface.surface()["command line"]
    assert flags.keys() == cli.VERBS.keys()
    for verb, own in flags.items():
        try:
            cli._parsed([verb, "--help"])
        except SystemExit:
            said = capsys.readouterr().out
        assert all(flag in said for flag in own if flag.startswith("--")), verb

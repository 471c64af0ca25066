"""The command line: one small file a verb; nothing heavy is imported before a verb runs.

Exit codes: 0 all done; 1 some inputs failed; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import textwrap
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

from shotseg import __version__, heap
from shotseg.errors import ShotsegError, UsageError, is_out_of_memory, no_memory, on_the_command_line

# verb -> (module, class, what it does). A class is a frozen dataclass with ``run() -> exit code``.
VERBS = {
    "demo": ("demo", "Demo", "segment the photos that come with shotseg; no download, about a minute"),
    "segment": ("segment", "Segment", "a few examples and a folder of photos in, masks and a report out"),
    "serve": ("serve", "Serve", "a page to draw, review, correct and export masks in"),
    "pseudo-label": ("pseudo_label", "PseudoLabel", "photos and the names of what they show in, masks out"),
    "backend": ("backend", "Backend", "pre-labels in Label Studio, as its machine learning backend"),
    "convert": ("convert", "Convert", "masks and annotations of one tool into those of another"),
    "prepare": ("prepare", "Prepare", "check a data set's official archives and write its manifest"),
    "evaluate": ("evaluate", "Evaluate", "measure a method on a data set or on a folder of your own"),
    "train": ("train", "Train", "train a model by a recipe, on your photos or a data set"),
    "export": ("export", "Export", "a method as ONNX files that take the class as an input"),
    "list": ("catalogue", "List", "models, encoders, datasets, recipes, weights or protocols"),
    "doctor": ("doctor", "Doctor", "what works on this machine"),
    "benchmark": ("benchmark", "Benchmark", "how fast it is on this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``shotseg argv...`` and give its exit code; whatever goes wrong is one line on stderr."""
    bound: AbstractContextManager = nullcontext()
    if argv is None:  # in a process of its own
        heap.starting()
        bound = heap.within_memory()
    with bound, on_the_command_line():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = None
    warnings.filterwarnings("ignore", module="PIL")  # which names no file; damage that harms no pixel is passed over
    warnings.formatwarning = lambda message, *_: f"shotseg: {message}\n"
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(_help())
            return 0
        if arguments[0] == "--version":
            print(f"shotseg {__version__}")
            return 0
        verb = _parsed(arguments)
        return int(verb.run() or 0)
    except UsageError as error:
        return _failed(error, 2)
    except ShotsegError as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        again = "; run the same command with --resume to go on" if hasattr(verb, "resume") else ""
        return _failed(f"interrupted, what was finished is kept{again}", 130)
    except BrokenPipeError:  # the reader of a pipe has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a fault of ours: still one line, and the way to all of it
        if os.environ.get("SHOTSEG_DEBUG"):
            raise
        if is_out_of_memory(error):
            return _failed(f"{no_memory(error)}; take a smaller --size or --batch, or smaller photos", 1)
        what = " ".join(str(error).split())[:300]
        return _failed(f"unexpected {type(error).__name__}: {what}; set SHOTSEG_DEBUG=1 to see where", 1)


def _failed(message: object, code: int) -> int:
    print(f"shotseg: {' '.join(str(message).split())}", file=sys.stderr)
    return code


def _parsed(arguments: list[str]) -> Any:
    """The verb's dataclass, filled from the arguments. Leaves with SystemExit(0) after ``--help``."""
    name, *rest = arguments
    if name not in VERBS:
        raise UsageError(f"unknown verb {name!r}{_nearest(name)}; see shotseg --help")
    from shotseg.cli.parsing import parse

    module, class_name, _ = VERBS[name]
    verb = getattr(import_module(f"shotseg.cli.{module}"), class_name)
    default, rest = verb.defaults(rest) if hasattr(verb, "defaults") else (None, rest)
    return parse(verb, rest, f"shotseg {name}", default)


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, VERBS, 1)
    return f", did you mean {found[0]!r}?" if found else ""


def _help() -> str:
    verbs = "\n".join(f"  {name:<13}{text}" for name, (_, _, text) in VERBS.items())
    return textwrap.dedent("""\
        shotseg: segment the things you have few masks for, or none.

        usage: shotseg VERB [options]        (shotseg VERB --help shows its options and an example)

        {verbs}

        The main job, with examples in DIR/images/<class>/*.jpg and DIR/masks/<class>/*.png:
          shotseg segment --support DIR --query PHOTOS --out RESULT""").format(verbs=verbs)

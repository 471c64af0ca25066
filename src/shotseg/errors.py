"""The one error type that a person should see: a single line with what is wrong, where, and the mend."""

import difflib
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

COMMAND = r"(?P<command>\bshotseg [^;`)]*|\([a-z]+ --[^)]*\))"  # of the command line in any case
NAME = r"(?P<name>(?:data\.)?[a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?!\.?\w|-)"
VALUE = (
    r"(?P<value>\d[\d.,/]*\b|(?(first)[^:;]+(?=: )|(?!)))"  # a number, or at the beginning what stands before a colon
)
FLAG = re.compile(rf"{COMMAND}|(?:(?P<first>^)|(?<=[\s(]))--{NAME}(?: {VALUE})?")
NO_MEMORY = (
    "out of memory",
    "can't allocate",
    "failed to allocate",
    "allocaterawinternal",
    "bad_alloc",
    "bad allocation",
)
RENAMED = {"from": "format"}  # flags whose argument has another name
_asked = {"flags": False}
_said: dict[str | tuple[str, type[Warning], int], int] = {}  # what `warnings` keeps of the lines that were said


class ShotsegError(Exception):
    """Something the user can mend. The message is one line: what, which file or value, what to do."""

    def __init__(self, message: object = ""):
        super().__init__(spoken(str(message)))


class InputError(ShotsegError):
    """A file of the user's cannot be used; other inputs are not affected."""


class UsageError(ShotsegError):
    """The call itself is wrong (a missing folder, an unknown name); nothing was done."""


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line of at most 200 characters."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on a CPU or a GPU, or ONNX Runtime says by this that there is no memory left."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(word in said for word in NO_MEMORY)


def no_memory(error: BaseException) -> str:
    """Of an error that :func:`is_out_of_memory`: "no memory is left for this", with what is known of how much it takes."""
    own = type(error) is MemoryError and str(error)
    return "no memory is left for this" + (f" ({own})" if own else "")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """ ", did you mean ...?" with the known name that is most like this one; "" where none is like it."""
    folded, word = {each.casefold(): each for each in known}, str(name).casefold()
    found = difflib.get_close_matches(word, folded, 1) or [each for each in folded if word and each.startswith(word)]
    return f", did you mean {folded[found[0]]}?" if found else ""


def one_of(name: object, known: Iterable[str]) -> str:
    """The end of a line on a name that is not known: the nearest one, and all that there are."""
    known = list(known)
    return f"{did_you_mean(name, known) or ';'} choose one of {', '.join(known)}"


class InputWarning(UserWarning):
    """A file of the user's was read, though perhaps not as it was meant. The message is one line."""


class LeftOutWarning(InputWarning):
    """An annotation of the user's that cannot be used; the rest is read. The message is one line."""


class NoMaskWarning(InputWarning):
    """An example came without its mask, and got one that was made from the class name. The message is one line."""


def note(line: str, kind: type[InputWarning] = InputWarning) -> None:
    """Say one line that stops nothing; the same line is said once, from wherever it comes."""
    warnings.warn_explicit(spoken(line), kind, "<shotseg>", 1, "shotseg", _said)


@contextmanager
def on_the_command_line() -> Iterator[None]:
    """Within it messages name flags, as they are written; elsewhere the arguments of Python."""
    before, _asked["flags"] = _asked["flags"], True
    try:
        yield
    finally:
        _asked["flags"] = before


def spoken(line: str) -> str:
    """A line that names flags, for who asked: "--min-area 2: ..." or "min_area=2: ...", "add --resume" or "add 'resume'"."""
    return line if _asked["flags"] else FLAG.sub(_argument, line)


def _argument(flag: re.Match) -> str:
    if flag["command"]:
        return flag[0]
    name = RENAMED.get(flag["name"], flag["name"].replace("-", "_"))
    return f"{name}={flag['value']}" if flag["value"] else f"{name!r}"

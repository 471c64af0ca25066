#!/usr/bin/env bash
# scikit-image 0.26.0: `adapted_rand_error` is 0, as of a perfect result, when a cell is missed and another one is invented.
#
# Seen: a label image of six cells. When one of them is not found, the error is 0 and precision and recall are 1, since all of its pixels have one
# label together, which is the background's. Cells that do not exist cost nothing either: pixels that are background in the truth are left out
# (`ignore_labels=(0,)`, as documented). All of that at once is still 0. What counts are cells that are cut or joined, and a second missed cell, which
# counts as joined with the first by background. Joining two cells lowers "recall", which by the documentation is the precision (issue 6485).
# Why it matters: results that lose or invent cells cannot be told from right ones, and one more missed cell makes a jump.
# What to do: count cells by IoU (stardist's `matching`, a panoptic quality). `ignore_labels=()` charges a part, as a share of the pixels.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(scikit-image==0.26.0 scipy==1.17.1 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
exact: 6 of 6 cells found, 6 in the result; error 0.000, precision 1.00, recall 1.00; with ignore_labels=() 0.000
one missed: 5 of 6 cells found, 5 in the result; error 0.000, precision 1.00, recall 1.00; with ignore_labels=() 0.060
two invented: 6 of 6 cells found, 8 in the result; error 0.000, precision 1.00, recall 1.00; with ignore_labels=() 0.032
one missed, two invented: 5 of 6 cells found, 7 in the result; error 0.000, precision 1.00, recall 1.00; with ignore_labels=() 0.090
two missed: 4 of 6 cells found, 4 in the result; error 0.143, precision 1.00, recall 0.75; with ignore_labels=() 0.116
all missed: 0 of 6 cells found, 0 in the result; error 0.715, precision 1.00, recall 0.17; with ignore_labels=() 0.307
two joined: 4 of 6 cells found, 5 in the result; error 0.143, precision 1.00, recall 0.75; with ignore_labels=() 0.004
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import numpy as np
from skimage.metrics import adapted_rand_error

CORNERS = [(5, 5), (5, 35), (5, 65), (35, 5), (35, 35), (35, 65)]


def cells(*kept, more=()):
    """(60, 90) labels of discs of radius 9, whose numbers are kept, and of further ones."""
    rows, columns = np.mgrid[:60, :90]
    labels = np.zeros((60, 90), int)
    for number, (top, left) in enumerate(CORNERS, 1):
        if number in kept:
            labels[(rows - top - 9) ** 2 + (columns - left - 9) ** 2 <= 81] = number
    for number, (top, left) in enumerate(more, 7):
        labels[top : top + 8, left : left + 8] = number
    return labels


def found(truth, result):
    """How many cells of the truth have a cell of the result with an IoU of 0.5."""
    return sum(
        any((here & there).sum() > 0.5 * (here | there).sum() for there in (result == other for other in np.unique(result[result > 0])))
        for here in (truth == number for number in range(1, 7))
    )


truth = cells(1, 2, 3, 4, 5, 6)
joined = truth.copy()
joined[joined == 2] = 1
cases = {
    "exact": truth,
    "one missed": cells(1, 2, 3, 4, 5),
    "two invented": cells(1, 2, 3, 4, 5, 6, more=[(25, 25), (25, 55)]),
    "one missed, two invented": cells(1, 2, 3, 4, 5, more=[(25, 25), (25, 55)]),
    "two missed": cells(1, 2, 3, 4),
    "all missed": cells(),
    "two joined": joined,
}
for title, result in cases.items():
    error, precision, recall = adapted_rand_error(truth, result)
    known = f"{found(truth, result)} of 6 cells found, {len(np.unique(result[result > 0]))} in the result"
    every = adapted_rand_error(truth, result, ignore_labels=())[0]
    print(f"{title}: {known}; error {error:.3f}, precision {precision:.2f}, recall {recall:.2f}; with ignore_labels=() {every:.3f}")
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"

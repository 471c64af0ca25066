#!/usr/bin/env bash
# nibabel 5.4.2: a mask of numbers with a point that is saved with its scan's header is read as 0.9999999998, which is no object any more.
#
# Seen: a scan of int16 and a mask of 0 and 1 as float64, as `get_fdata` gives masks, saved by `Nifti1Image(mask, scan.affine, scan.header)`. The
# header's type stays int16, so that 0 to 1 is stretched over all of its values and scaled back when it is read. `== 1` and `astype(int)` find
# no voxel. Of classes 0 to 3 each moves down by one. SimpleITK 2.5.7 reads 32 bits, in which 0 to 3 are whole, and 600 of 1400 voxels of classes 0 to
# 7 are wrong. Objects 0 to 300 as int32, with the header of a scan of uint8, are wrong even when they are rounded.
# Why it matters: the file looks right in every viewer. A mask that was read, cleaned and saved is empty in the next program, or its classes
# are others. That headers keep their type is documented; that labels do not survive it is not.
# What to do: `Nifti1Image(mask.astype("uint8"), affine, header, dtype="uint8")`; round what others saved before you cast it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
packages=(nibabel==5.4.2 simpleitk==2.5.7 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" "${packages[@]}"
else
  "$python" -m pip install --quiet "${packages[@]}"
fi

cat >"$folder/stated" <<'STATED'
0 and 1, float64, scan of int16: wrong of 800 marked voxels: astype(int) 800, rounded 0, SimpleITK and astype(int) 0
  read as [0.0, 0.9999999997671694]; voxels that are 1: 0 of 800
0 to 3, float64, scan of int16: wrong of 1200 marked voxels: astype(int) 1200, rounded 0, SimpleITK and astype(int) 0
  1, 2, 3 become 0, 1, 2
0 to 7, float64, scan of int16: wrong of 1400 marked voxels: astype(int) 800, rounded 0, SimpleITK and astype(int) 600
0 to 300, int32, scan of uint8: wrong of 1594 marked voxels: astype(int) 797, rounded 239, SimpleITK and astype(int) 797
0 to 3 as uint8, and dtype uint8: wrong of 1200 marked voxels: astype(int) 0, rounded 0, SimpleITK and astype(int) 0
0 to 300 as uint16, and dtype uint16: wrong of 1594 marked voxels: astype(int) 0, rounded 0, SimpleITK and astype(int) 0
STATED

cd "$folder"
"$python" -W ignore - >"$folder/seen" 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import nibabel as nib
import numpy as np
import SimpleITK as sitk

VOXELS = np.arange(1600).reshape(20, 20, 4)


def saved(title, scan_type, labels, **how):
    """Labels as they are read again from a file that was saved with the header of a scan."""
    nib.save(nib.Nifti1Image(np.zeros(labels.shape, scan_type), np.eye(4)), "scan.nii.gz")
    scan = nib.load("scan.nii.gz")
    nib.save(nib.Nifti1Image(labels, scan.affine, scan.header, **how), "labels.nii.gz")
    read = nib.load("labels.nii.gz").get_fdata()
    other = sitk.GetArrayFromImage(sitk.ReadImage("labels.nii.gz")).T
    marked = labels > 0
    ways = {"astype(int)": read.astype(int), "rounded": read.round(), "SimpleITK and astype(int)": other.astype(int)}
    wrong = ", ".join(f"{name} {np.count_nonzero(values[marked] != labels[marked])}" for name, values in ways.items())
    print(f"{title}: wrong of {np.count_nonzero(marked)} marked voxels: {wrong}")
    return read


mask = (VOXELS % 2).astype(np.float64)
read = saved("0 and 1, float64, scan of int16", np.int16, mask)
print(f"  read as {[float(value) for value in np.unique(read)]}; voxels that are 1: {np.count_nonzero(read == 1)} of {np.count_nonzero(mask == 1)}")
classes = (VOXELS % 4).astype(np.float64)
read = saved("0 to 3, float64, scan of int16", np.int16, classes)
print("  1, 2, 3 become", ", ".join(str(*np.unique(read[classes == number].astype(int))) for number in (1, 2, 3)))
saved("0 to 7, float64, scan of int16", np.int16, (VOXELS % 8).astype(np.float64))
saved("0 to 300, int32, scan of uint8", np.uint8, (VOXELS % 301).astype(np.int32))
saved("0 to 3 as uint8, and dtype uint8", np.int16, classes.astype(np.uint8), dtype=np.uint8)
saved("0 to 300 as uint16, and dtype uint16", np.uint8, (VOXELS % 301).astype(np.uint16), dtype=np.uint16)
PYTHON

cat "$folder/seen"
if ! diff "$folder/stated" "$folder/seen" >"$folder/difference"; then
  echo "changed: < as stated, > as seen now" >&2
  cat "$folder/difference" >&2
  exit 1
fi
echo "as stated"

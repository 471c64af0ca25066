"""Store the own golden values anew: ``python tests/goldens/make.py``, after a change of behaviour that is meant."""

import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safetensors.torch import save_file

from goldens import cases


def main() -> None:
    warnings.simplefilter("ignore")
    values = {f"{case}/{name}": cases.kept(x) for case, make in cases.CASES.items() for name, x in make().items()}
    save_file(values, cases.VALUES)
    cases.DRAWS.write_text(json.dumps(cases.drawn(), indent=2) + "\n", encoding="utf-8")
    print(f"{len(values)} tensors of {len(cases.CASES)} systems in {cases.VALUES}")


if __name__ == "__main__":
    main()

"""Kill, starve and crowd `graftwork` for real, and compare what it ends with: `make test-faults`.

Prints a table row per fault: what was done, from which step the run went on, and whether it ended with the
same bits as the run that nobody disturbed. Exits with 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLACES = [str(ROOT / "src"), str(HERE), str(HERE.parent)]
sys.path[:0] = PLACES
# For the processes to come. One thread each: those of several processes wait for each other.
os.environ |= {
    "PYTHONPATH": os.pathsep.join([*PLACES, os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",  # such as of semaphores of processes that were killed
}


class Table:
    """Prints rows as they come, and counts those that are wrong."""

    def __init__(self) -> None:
        self.rows = self.wrong = self.skipped = 0
        self.began = time.monotonic()

    def title(self, text: str, columns: str = "fault | went on from | same bits") -> None:
        print(f"\n## {text}\n\n{columns}\n" + " | ".join("---" for _ in columns.split("|")), flush=True)

    def row(self, name: str, then: str, fault: str = "") -> None:
        """A row; `fault` says what is wrong."""
        self.rows += 1
        self.wrong += bool(fault)
        print(f"{name} | {then} | {'yes' if not fault else f'NO: {fault}'}", flush=True)

    def skip(self, text: str) -> None:
        """Say why a part cannot be done here."""
        self.skipped += 1
        print(f"skipped: {text}", flush=True)


def main() -> int:
    """Run the parts that were asked for."""
    warnings.simplefilter("ignore")
    import crowds
    import disk
    import kills

    parts: dict[str, Callable[[Path, random.Random, Table], None]] = {
        "kills": kills.kill_runs,
        "chain": kills.kill_again_and_again,
        "budgets": kills.kill_family,
        "disk": disk.fill_disk,
        "crowd": crowds.crowd,
    }
    smoke = {"smoke": kills.kill_a_few}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join({**parts, **smoke})}; default all but smoke")
    parser.add_argument("--seed", type=int, default=0, help="of the points that are drawn")
    arguments = parser.parse_args()
    chosen = arguments.parts or list(parts)
    parts |= smoke
    if unknown := set(chosen) - set(parts):
        parser.error(f"unknown part {', '.join(unknown)}")
    table = Table()
    print(f"seed {arguments.seed}")
    folder = Path(tempfile.mkdtemp(prefix="graftwork-faults-"))
    try:
        for part in chosen:
            (folder / part).mkdir()
            parts[part](folder / part, random.Random(f"{arguments.seed} {part}"), table)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - table.began
    print(
        f"\n{table.rows} faults, {table.wrong} with another end than the undisturbed run, {table.skipped} "
        f"parts skipped, {seconds:.0f} s"
    )
    return 1 if table.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

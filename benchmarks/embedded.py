"""Write the data of the smoke grid: the handwritten digits on photographs of the demo.

python benchmarks/embedded.py DATA
"""

import argparse
from pathlib import Path

from eclipse.jobs.demo import digits


def write(folder: Path, seed: int = 0) -> None:
    """Write train.npz, trusted.npz and test.npz, which share no digit."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = digits(seed)
    for name, part in {"train": parts.train, "trusted": parts.test[:200], "test": parts.test[200:]}.items():
        part.save(folder / f"{name}.npz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()

"""Write `published_lists_in_catalog.json` from the cases and the published catalogue, which is not committed.

python -m tests.golden.make_membership PATH/gt_catalog.pkl
"""

import json
import sys
from pathlib import Path

from rlbench.data.catalog_files import read_catalog
from tests.golden.figures import MEMBERSHIP, golden_folder, membership, read_cases


def main(catalog: Path) -> None:
    positions = membership(read_cases(golden_folder()), set(read_catalog(catalog)[0].items))
    lines = ",\n".join(json.dumps(of_case, separators=(",", ":")) for of_case in positions)
    (golden_folder() / MEMBERSHIP).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

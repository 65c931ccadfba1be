"""The process started by `trackio_backend`: passes JSON lines on to Trackio as calls, and prints its complaints.

It runs as a script so that neither rlbench nor torch is loaded. It ends at the first complaint, because Trackio itself
would continue without the data.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any


def main() -> int:
    """Serve calls until "finish" or the end of the input. Return 1 if Trackio complained."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # Trackio prints to stdout
    sys.path.remove(str(Path(__file__).parent))
    try:
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("default")
            serve(complaints)
    except Exception as error:  # the only way to report the error
        print(f"{type(error).__name__}: {error}", file=answers, flush=True)
        return 1
    return 0


def serve(complaints: list[warnings.WarningMessage]) -> None:
    """Execute the calls on standard input.

    Raises:
        RuntimeError: with Trackio's first complaint.
    """
    import trackio

    complaints.clear()  # drop warnings of the imports
    run: Any = None
    for line in sys.stdin:
        call = json.loads(line)
        method = call.pop("method")
        if method == "init":
            run = trackio.init(**call, embed=False, auto_log_gpu=False, auto_log_cpu=False)
        elif method == "log":
            run.log(call["metrics"], step=call["step"])
        elif method == "table":
            run.log({call["name"]: trackio.Table(columns=call["columns"], data=call["rows"])}, step=call["step"])
        elif method == "image":
            run.log({call["name"]: trackio.Image(call["file"])}, step=call["step"])
        elif method == "finish":
            run.finish()
        for complaint in complaints:
            raise RuntimeError(str(complaint.message))
        if method == "finish":
            return


if __name__ == "__main__":
    sys.exit(main())

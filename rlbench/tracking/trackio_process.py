"""The process that `trackio_backend` starts: hands calls, which are lines of JSON, to Trackio; writes its complaints.

It is run as a script, so that neither rlbench nor torch is loaded. The first complaint ends it: Trackio itself would go
on without the data.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any


def main() -> int:
    """Serve calls until "finish" or the end of the input; 1 where Trackio complained."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # Trackio prints
    sys.path.remove(str(Path(__file__).parent))
    try:
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("default")
            serve(complaints)
    except Exception as error:  # the process has no other way to say what it was
        print(f"{type(error).__name__}: {error}", file=answers, flush=True)
        return 1
    return 0


def serve(complaints: list[warnings.WarningMessage]) -> None:
    """Do what the lines of the input say.

    Raises:
        RuntimeError: with Trackio's first complaint.
    """
    import trackio

    complaints.clear()  # of the imports
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

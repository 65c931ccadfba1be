"""rlbench's one entry point: `python run.py algorithm=rank_grpo reward=relevance dataset=mini model=tiny`."""

import os
import sys

import hydra
from omegaconf import DictConfig

from rlbench.cli import check_overrides, fail
from rlbench.config import resolve
from rlbench.errors import BadInput, OutOfMemory


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    try:
        config = resolve(cfg)
        from rlbench.runner import run  # it loads torch: not before the config has been checked

        run(config)
    except BadInput as error:
        fail(error)
    except OutOfMemory as error:
        print(f"rlbench: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        check_overrides(sys.argv[1:])
    except BadInput as error:
        fail(error)
    main()

"""Entry point of rlbench: `python run.py algorithm=rank_grpo reward=relevance dataset=mini model=tiny`."""

from rlbench.run import start

if __name__ == "__main__":
    start()

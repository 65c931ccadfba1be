"""Preference optimisation: DPO, S-DPO and SPRec on ranked lists.

The other family of algorithms. Where policy optimisation makes advantages of the lists of a rollout, these make tuples
of them, one chosen list and one or several rejected ones, and classify them:

- `rounds`: which updates belong to which round, and which prompts it draws lists for;
- `tuples`: which lists of a prompt make a tuple;
- `losses`: what a tuple costs;
- `store`: the lists of a round on the disk;
- `rlbench.stages.preference`: the trainer.
"""

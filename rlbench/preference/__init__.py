"""Preference optimisation: DPO, S-DPO and SPRec on ranked lists.

This is the second family of algorithms. Policy optimisation turns the lists of a rollout into advantages. Preference
optimisation turns them into tuples of one chosen list and one or several rejected ones, and classifies them:

- `rounds`: which updates belong to each round, and for which prompts it draws lists;
- `tuples`: which lists of a prompt form a tuple;
- `losses`: the loss of a tuple;
- `store`: the lists of a round on disk;
- `rlbench.training.preference`: the trainer.
"""

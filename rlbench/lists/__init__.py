"""What a list says: entries, the catalogue, verdicts, metrics and their titles, and facts about items.

Imports only `base` and `config`. Only `reader`, which works on tokens, loads torch.
"""

"""What a list and its ranks are worth: weighted terms, their discounted tail sums (returns), and their combination."""

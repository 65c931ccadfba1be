"""What `-m` does with the cells of a sweep: one module a launcher, and what all launchers share."""

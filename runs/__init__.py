"""The results of runs: their format, their folder while they run, and finding them again."""

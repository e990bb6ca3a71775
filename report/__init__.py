"""What runs say: statistics, then a tree of plain values, then views of it."""

import logging

# Matplotlib would tell, when it is imported, where it keeps its cache if the home folder cannot be written.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

"""What runs say: statistics, then a tree of plain values, then views of it."""

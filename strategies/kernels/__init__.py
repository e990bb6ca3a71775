"""The computations of the strategies: pure functions of tensors."""

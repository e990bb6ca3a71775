"""What several strategies compute with: pure functions of tensors."""

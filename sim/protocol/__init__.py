"""What server and nodes exchange: the contract of a round, messages, the layout of tensors."""

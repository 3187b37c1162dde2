"""What compare_torch.py compares, a module a sub-command. It is imported after the environment is set."""

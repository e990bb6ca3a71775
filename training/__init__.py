"""Training a network, and using, saving and sharing the trained one."""

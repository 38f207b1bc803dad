"""The network: one encoder, three heads, one forward pass."""

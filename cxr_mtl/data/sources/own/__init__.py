"""Films of one's own, in folders or in a table."""

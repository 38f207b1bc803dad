"""How any dataset's tables are read: files, columns, labels, and the size of a film."""

"""Films in, answers out. Evaluation, server, command line and demo all come through here."""

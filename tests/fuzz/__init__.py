"""Random damage to all that the commands read: it ends in a message, never in a traceback or a hang."""

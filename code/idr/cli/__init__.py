"""The command lines: arguments, logging, device choice; nothing else parses, prints or exits."""

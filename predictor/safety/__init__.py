"""What may be asked for and shown: the safety layers."""

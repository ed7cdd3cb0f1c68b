"""Who may use the server, and how much: bearer keys, and limits per key and per address.

The modules know nothing of HTTP routes; ``edge/access_control.py`` applies them to requests.
"""

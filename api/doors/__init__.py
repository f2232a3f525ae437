"""
Doors for other front ends: sessions in the words of other protocols.

A door decodes a request, has `conversation` start the run, and encodes the session's events.
"""

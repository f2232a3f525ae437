"""Conversations out of this server and into it: files of its own form, and of others'."""

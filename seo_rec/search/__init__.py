"""Searches: each is a gate on the looked-up chunks, and a selection that writes a policy."""

"""Starts described runs on described clusters, and follows and stops them."""

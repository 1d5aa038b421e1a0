"""Conversations: the shapes in which they are published, the template that makes them text, their tokens."""

"""Cacheside with others' frameworks."""

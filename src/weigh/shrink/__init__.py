"""Smaller models with the loss measured."""

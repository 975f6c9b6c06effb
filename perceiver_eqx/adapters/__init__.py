"""Adapters: modalities in, modalities out."""

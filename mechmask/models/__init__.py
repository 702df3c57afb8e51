"""Loads a model, knows its anatomy, turns facts into token routes."""

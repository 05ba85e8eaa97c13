"""Stores to measure on: how to open one, fill one fast, and count what it is sent."""

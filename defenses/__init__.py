"""Defences: empty until the first one is finished."""

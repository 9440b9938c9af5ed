"""Verdicts against cases that others wrote down, each difference explained."""

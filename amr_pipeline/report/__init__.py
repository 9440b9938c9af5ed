"""Plots and tables that people look at; numbers come from the chapters, nothing is computed twice."""

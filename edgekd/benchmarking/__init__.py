"""Measuring models: latency with bounds and memory by phase, one fresh process a measurement."""

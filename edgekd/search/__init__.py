"""Searches over whole stages: how to distil, judged on the validation split."""

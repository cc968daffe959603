"""Bundles: models with a manifest, and for each platform a package that opens them and proves itself."""

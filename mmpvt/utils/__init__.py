"""What several parts of the package need and none owns."""

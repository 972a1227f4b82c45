"""What writes the documentation's tables; not in the wheel."""

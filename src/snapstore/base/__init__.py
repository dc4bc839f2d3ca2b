"""What every layer may use: errors, progress, units, text forms. Imports nothing of ours."""
